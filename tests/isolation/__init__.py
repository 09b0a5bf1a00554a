"""The isolation campaign: random callers, random trouble, and an oracle that knows who was allowed what.

`cast` is who and what there is, `oracle` the truth and its history, `judge` the verdict on one answer,
`lab` the real proxy between a demo Hub and stand-ins, `plan` a step of a seed, `world` what its events
do, `campaign` the run, `report` its numbers, `bugs` the mistakes that a campaign must find.
"""
