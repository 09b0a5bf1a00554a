"""The isolation campaign: random callers, random trouble, and a model that knows who was allowed what.

`cast` is who and what there is, `oracle` the truth and its history, `warmth` what the proxy must still
know, `aftermath` when it need not ask, `judge` and `delivery` the verdict on one `attempt`; `lab` and
`stage` are the real proxy between a demo Hub and `engines`, `plan` is a step of a seed, `world` makes its
events happen, `campaign` is the run, `report` its numbers, and `bugs` the mistakes that a campaign must
find.
"""
