"""The isolation campaign: random callers, random trouble, and a model that knows who was allowed what.

`scenario` is who and what there is, `access_model` the truth and its history, `expected_cache` what the proxy
must still know, `outage_checker` when it need not ask, `checker` and `delivery` the verdict on one `attempt`;
`harness` and `setup` are the real proxy between a demo Hub and `engines`, `plan` is a step of a seed, `world`
makes its events happen, `campaign` is the run, `report` its numbers, and `bugs` the mistakes that a campaign
must find.
"""
