"""How strong a penalty is, how fast it goes and how far: schedules, ramps, targets, the optimizer's steps."""
