"""vLLM behind the Hugging Face tokens of its callers. Imported inside vLLM too, so there is little here."""

import os

if "INTERPRETED" in os.environ:
    from hubgate import interpreted

    interpreted.install()
