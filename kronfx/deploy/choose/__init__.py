"""Which lowering a layer gets: by the clock, layer by layer and as whole files, by a cost model, or as asked."""
