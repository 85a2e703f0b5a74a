"""Whether a file answers what its reference answers: inputs, cases, runtimes."""
