"""How both programs live on a machine: configuration, service token, log. Knows neither program."""
