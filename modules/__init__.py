"""What learns: the policy and the LightningModules that train it."""
