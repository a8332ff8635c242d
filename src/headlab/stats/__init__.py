"""Intervals, tests and member models for rows of outcomes: numbers in, `Estimate`s out.

The lowest floor: numpy and the standard library at import, scipy, statsmodels and scikit-learn only
inside the functions that need them. Nothing here knows what a head or a prompt is.

    estimate      Estimate: a value with its interval, n, unit, method and seed
    figures       numbers in sentences
    rates         of trials, of rows in clusters, of rows crossed both ways
    intervals     means, ratios and paired differences; bootstrap by cluster
    paired        exact McNemar, difference of paired rates, equivalence within a margin
    permutation   rank among matched sets, sign flips
    corrections   Holm, Benjamini-Hochberg
    members       additive effects, exact tests, leave-one-out, separability, AUROC
    spacing       how a set lies among its places, and whether that goes with success
    accounts      count, additive and pairwise accounts of success, by held-out deviance
    coalitions    Shapley and Banzhaf values

The page holds 25 names; these modules are imported by theirs:

    dose          the dose at which each pair flips: on a grid, by bisection, over all pairs
    psychometric  location and width of a rising curve
    linear_null   the curve of linear margins, and how observed crossings differ from it
    dip           Hartigan's test for more than one mode
    distances     Mantel test, contrast of labels within a table of similarities
    factorial     effects of things varied together, errors by cluster
    heterogeneity estimates of several models: Q, I squared, random effects; chance of a table
    clustering    trees, k-means, density; how many clusters, and whether beyond a null
    agreement     silhouettes, adjusted Rand index, purity
    views         a table of distances in two dimensions
    correlation   Spearman's of one row of numbers with many
    groups        what differs between given groups, the largest statistic permuted
    change_point  one change in a short series, and between which looks
    of_means      intervals of any function of means
    power         how large an effect a number of prompts can show
    clustering    trees, k-means, density; silhouettes and the gap statistic
    agreement     ARI, purity, clusters and labels against a null; a set predicted from likeness
    views         items in two dimensions: principal coordinates, t-SNE, UMAP
"""

from .accounts import held_out_deviance
from .coalitions import banzhaf, shapley, shapley_from_chains, shapley_plan
from .corrections import benjamini_hochberg, holm
from .estimate import Estimate
from .intervals import bootstrap_mean, bootstrap_paired_difference, bootstrap_ratio
from .members import additive, auroc, leave_one_out, linear_separability, predict_left_out
from .paired import mcnemar, paired_difference, tost_paired
from .permutation import Rank, rank, sign_flip
from .rates import clopper_pearson, clustered_rate, wilson

__all__ = [
    "Estimate",
    "Rank",
    "additive",
    "auroc",
    "banzhaf",
    "benjamini_hochberg",
    "bootstrap_mean",
    "bootstrap_paired_difference",
    "bootstrap_ratio",
    "clopper_pearson",
    "clustered_rate",
    "held_out_deviance",
    "holm",
    "leave_one_out",
    "linear_separability",
    "mcnemar",
    "paired_difference",
    "predict_left_out",
    "rank",
    "shapley",
    "shapley_from_chains",
    "shapley_plan",
    "sign_flip",
    "tost_paired",
    "wilson",
]
