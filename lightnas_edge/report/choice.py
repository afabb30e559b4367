"""Why the search chose this network, in words."""

from __future__ import annotations

from lightnas_edge.records.run import ChoiceRecord
from lightnas_edge.report import wording


def why_chosen(choice: ChoiceRecord) -> str:
    """Of a choice among candidates. One with a lower loss may lose against the operator scores: it says so."""
    count = len(choice.others) + 1
    own = choice.supernet.deployed_loss
    losses = [loss for other in choice.others if (loss := other.supernet.deployed_loss) is not None]
    if own is None or not losses:
        return f"Chosen from {count} candidates by operator scores; their losses on held-out images are not known."
    lowest = min(losses)
    first = not any(other.operators == choice.top_scored for other in choice.others)
    rule = (
        "The search adds two estimates of equal weight: the loss of a candidate on held-out images, and its operator scores, "
        "which rest on all networks that the search has sampled."
    )
    if choice.supernet.deployed is not None:
        rule += f" What the network loses by {choice.supernet.deployed.precision} counts in full."
    if lowest < own:
        digits = wording.digits_apart(own, (lowest,), "")
        own_text, lowest_text = wording.number(own, digits), wording.number(lowest, digits)
        text = (
            f"Of {count} candidates, the chosen one does not have the lowest loss: {own_text}, and another has {lowest_text}. "
            f"{rule} By both together the chosen network is the best."
        )
        return text + (" It has the highest operator score of all candidates." if first else "")
    if first:
        return f"Of {count} candidates, the chosen one has the highest operator score, and none has a lower loss."
    return (
        f"Of {count} candidates, no other has a lower loss than the chosen one; another has the highest operator score. {rule} "
        "By both together the chosen network is the best."
    )
