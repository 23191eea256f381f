"""What a try of mutants says: the share killed in each room, its interval, and who survived."""

import math

Z = 1.959964
"""Of a 95 % interval."""


def interval(killed: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share, spread = killed / count, Z**2 / count
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


def scores(results: list[dict], num_places: dict[str, int], reasons: dict[str, dict[str, str]]) -> dict[str, dict]:
    """Count for each room; mutants that change nothing anyone can see do not count. `all` weighs rooms by places."""
    found = {}
    for room, places in num_places.items():
        its = [one for one in results if one["room"] == room]
        equivalent = sum(one["outcome"] == "survived" and one["id"] in reasons["equivalent"] for one in its)
        killed = sum(one["outcome"] != "survived" for one in its)
        ends = interval(killed, len(its) - equivalent)
        found[room] = {
            "places": places, "drawn": len(its), "equivalent": equivalent, "killed": killed,
            "score": killed / (len(its) - equivalent), "from": ends[0], "to": ends[1],
        }  # fmt: skip
    return {**found, "all": _all(found)}


def _all(rooms: dict[str, dict]) -> dict:
    """The rooms together, each as heavy as it has places; the interval is that of a stratified sample."""
    whole = sum(one["places"] for one in rooms.values())
    score = sum(one["score"] * one["places"] for one in rooms.values()) / whole
    variance = 0.0
    for one in rooms.values():
        count = one["drawn"] - one["equivalent"]
        share = (one["killed"] + 1) / (count + 2)  # never surer than the sample allows
        variance += (one["places"] / whole) ** 2 * share * (1 - share) / count
    half = Z * math.sqrt(variance)
    sums = {name: sum(one[name] for one in rooms.values()) for name in ("places", "drawn", "equivalent", "killed")}
    return {**sums, "score": score, "from": score - half, "to": min(1.0, score + half)}


def page(results: list[dict], found: dict[str, dict], reasons: dict[str, dict[str, str]], seed: int) -> str:
    """Return the page: a table of rooms, a list of survivors with what is known of them."""
    rows = "\n".join(
        f"| {room} | {one['places']} | {one['drawn']} | {one['killed']} | {one['equivalent']} | "
        f"{100 * one['score']:.0f} % | {100 * one['from']:.0f} to {100 * one['to']:.0f} % |"
        for room, one in found.items()
    )
    survivors = [one for one in results if one["outcome"] == "survived"]
    unseen = "".join(map(_named, results))
    return (
        f"# Mutants\n\nWritten by `python benchmarks/mutants` (seed {seed}).\n\n"
        "| room | places | drawn | killed | equivalent | score | 95 % interval |\n"
        f"| --- | ---: | ---: | ---: | ---: | ---: | --- |\n{rows}\n\n"
        "`all` weighs rooms by their places. Equivalent ones, which no test can tell from the code, do not count.\n\n"
        f"{unseen and f'## Faults that once went unseen{chr(10) * 2}{unseen}{chr(10)}'}"
        f"## Survivors\n\n{''.join(_survivor(one, reasons) for one in survivors) or 'None.'}"
    )


def _named(one: dict) -> str:
    return f"- {one['where']} (`{one['path']}`): {one['outcome']}\n" if one["room"] == "named" else ""


def _survivor(one: dict, reasons: dict[str, dict[str, str]]) -> str:
    said = next((f"{kind}: {its[one['id']]}" for kind, its in reasons.items() if one["id"] in its), "no reason yet")
    return (
        f"- `{one['id']}` {one['path']}:{one['line']} {one['where']}\n"
        f"  `{one['before']}`\n  `{one['after'] or '(gone)'}`\n  **{said}**\n"
    )
