"""How an initialisation learns: from the tasks of one meta-step to a cohort of cells, and how well it then adapts."""
