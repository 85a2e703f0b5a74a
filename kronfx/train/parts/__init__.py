"""What a penalty is made of: tensors in groups, how they are cut, and what a group is charged for."""
