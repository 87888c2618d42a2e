"""Is a JAX computation the same as a torch one? Values held against each other, differences explained by proof."""
