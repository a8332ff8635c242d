"""A bisection run to its end, for tests that need no more than where each pair crosses."""

from headlab.stats.dose import Bisection


def bisect(f, low, high, **how):
    """Search until every bracket is as narrow as asked; ``f`` takes pair [run] and dose [run]."""
    search = Bisection.start(low, high, **how)
    while not search.done:
        search = search.tell(f(*search.ask()))
    return search.crossings()
