"""The command, `hubgate`: the one place that knows both programs."""
