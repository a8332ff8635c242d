"""Which of many subsets of heads work, and what that says about heads; tables of subsets that others published."""
