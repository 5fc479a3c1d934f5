"""`plan`: what a run would cost, from a sample of its units that every stage is really done on.

`sample` chooses units, `measure` does the stages on them and times each step, `cost` scales that to all units, `report`
prints it.
"""
