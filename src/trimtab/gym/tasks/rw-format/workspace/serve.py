"""Rewards of outputs/reward.py for somebody who trains the policy: lines of JSON with prompts and completions."""

import json
import os
import sys


def main() -> None:
    """What the reward prints goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, "outputs")
    from reward import reward

    for line in sys.stdin:
        asked = json.loads(line)
        rewards = [float(reward(*both)) for both in zip(asked["prompts"], asked["completions"])]
        out.write(json.dumps(rewards) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
