"""Deduplication by its parts: candidates, clusters, survivors, records."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.dedup import candidates, clusters, records, survivors
from pipelines.dedup.records import BAND, EDGE, EXACT, member
from pipelines.minhash import band_keys, estimated_jaccard, exact_jaccard, shingle_hashes, signatures
from pipelines.text_table import TextTable

KEEP = ("source_priority", "quality", "length", "id")
BANDS = 32
THRESHOLD = 0.8


def pairs(edges):
    return list(zip(edges["u"].tolist(), edges["v"].tolist(), strict=True))


def edges_of(found):
    made = np.empty(len(found), EDGE)
    made["u"], made["v"] = np.array(found, np.uint64).reshape(-1, 2).T
    return made


def members_of(signature, cluster=0, **ranks):
    made = np.zeros(len(signature), member(signature.shape[1]))
    made["doc"] = np.arange(len(signature))
    made["cluster"] = cluster
    made["signature"] = signature
    for name, values in ranks.items():
        made[name] = values
    return made


# -- candidates -----------------------------------------------------------------------------------------------------


def test_a_bucket_of_one_hundred_thousand_equal_signatures_is_one_star():
    documents = 100_000
    one = np.random.default_rng(0).integers(0, 2**32, (1, 256), np.uint32)
    bands = candidates.band_records(np.arange(documents, dtype=np.uint64), np.repeat(one, documents, axis=0), 1)
    began = time.process_time()
    edges = candidates.candidate_edges(bands)
    assert time.process_time() - began < 2
    assert np.all(edges["u"] == 0) and np.array_equal(edges["v"], np.arange(1, documents))


def test_a_bucket_of_different_documents_gives_linearly_many_edges():
    documents = 20_000
    rng = np.random.default_rng(1)
    bucket = np.zeros(documents, BAND)
    bucket["doc"], bucket["key"] = rng.permutation(documents), 7
    bucket["sketch"] = rng.integers(0, 2**63, documents)
    edges = candidates.candidate_edges(bucket)
    assert len(edges) <= candidates.NEAREST * documents
    degree_down = np.unique(edges["v"], return_counts=True)[1]
    assert degree_down.max() == candidates.NEAREST
    assert len(np.unique(connected(edges, documents))) == 1


@pytest.mark.parametrize("between", [0, 3, 50, candidates.WINDOW - 2])
def test_in_a_bucket_the_like_are_joined_over_many_unlike(between):
    bucket = np.zeros(between + 2, BAND)
    bucket["doc"], bucket["key"] = np.arange(len(bucket)), 7
    bucket["sketch"] = np.random.default_rng(2).integers(0, 2**63, len(bucket))
    bucket["sketch"][-1] = bucket["sketch"][0] ^ 0b1001
    assert (0, between + 1) in pairs(candidates.candidate_edges(bucket))


def connected(edges, documents):
    matrix = coo_array((np.ones(len(edges)), (edges["u"], edges["v"])), shape=(documents, documents))
    return connected_components(matrix, directed=False)[1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.integers(0, 3)), max_size=80), st.randoms())
def test_candidates_do_not_depend_on_the_order_of_arrival(rows, chance):
    rows = list({(key, doc): (key, doc, sketch) for key, doc, sketch in rows}.values())
    shuffled = list(rows)
    chance.shuffle(shuffled)
    edges = candidates.candidate_edges(np.array(rows, BAND))
    assert np.array_equal(edges, candidates.candidate_edges(np.array(shuffled, BAND)))
    buckets = {}
    for key, doc, _ in rows:
        buckets.setdefault(key, set()).add(doc)
    found = pairs(edges)
    assert found == sorted(set(found)) and all(u < v for u, v in found)
    assert all(any({u, v} <= bucket for bucket in buckets.values()) for u, v in found)
    for bucket in buckets.values():  # every bucket hangs together
        reached, grown = set(), {min(bucket)}
        while grown != reached:
            reached = grown
            grown = reached | {x for u, v in found if {u, v} & reached and {u, v} <= bucket for x in (u, v)}
        assert reached == bucket


def test_one_bucket_joins_what_agrees_on_one_band():
    rng = np.random.default_rng(2)
    signature = rng.integers(0, 2**32, (3, 256), np.uint32)
    signature[2, 8:16] = signature[0, 8:16]
    docs = np.array([5, 9, 3 << 32], np.uint64)
    assert pairs(candidates.candidate_edges(candidates.band_records(docs, signature, BANDS))) == [(5, 3 << 32)]


def family(seed, documents, frame, own, edits, twins):
    """Texts that share a frame of words around words of their own, and near-copies of the first of them."""
    rng = np.random.default_rng(seed)
    shared = [f"f{i}" for i in range(frame)]
    texts = []
    for i in range(documents):
        text = list(shared)
        for at in sorted(rng.integers(0, frame, 4).tolist(), reverse=True):
            text[at:at] = [f"o{i}x{x}" for x in rng.integers(0, 10**7, own // 4)]
        texts.append(text)
    for i in range(twins):
        text = list(texts[i])
        for at in rng.integers(0, len(text), edits).tolist():
            text[at] = f"e{rng.integers(10**7)}"
        texts.append(text)
    shingles, offsets = shingle_hashes(TextTable.from_texts([" ".join(text) for text in texts]), 5)
    jaccard = [
        exact_jaccard(*(shingles[offsets[d] : offsets[d + 1]] for d in (i, documents + i))) for i in range(twins)
    ]
    return signatures(shingles, offsets), np.array(jaccard)


@pytest.mark.parametrize(("frame", "own"), [(200, 200), (300, 60), (500, 60)])
def test_a_family_of_templates_hides_no_twins(frame, own):
    documents, twins = 300, 100
    signature, jaccard = family(frame, documents, frame, own, edits=3, twins=twins)
    assert jaccard.min() >= 0.85
    bands = candidates.band_records(np.arange(len(signature), dtype=np.uint64), signature, BANDS)
    edges = candidates.candidate_edges(bands)
    assert len(edges) <= candidates.NEAREST * len(bands)
    ends = [edges[name].astype(np.int64) for name in ("u", "v")]
    verified = edges[estimated_jaccard(*(signature[end] for end in ends)) >= THRESHOLD]
    found = set(pairs(verified))
    assert np.mean([(i, documents + i) in found for i in range(twins)]) >= 0.99
    drops = survivors.near_duplicates(members_of(signature), THRESHOLD, BANDS, KEEP)
    assert np.isin(np.arange(documents, documents + twins), drops["doc"]).mean() >= 0.99


def test_unique_edges_have_no_loops_and_no_repeats():
    found = candidates.unique(edges_of([(4, 9), (1, 1), (1, 7), (4, 9), (1, 3)]))
    assert pairs(found) == [(1, 3), (1, 7), (4, 9)]


def test_no_records_give_no_edges():
    assert len(candidates.candidate_edges(np.empty(0, BAND))) == 0
    assert len(candidates.band_records(np.empty(0, np.uint64), np.empty((0, 256), np.uint32), BANDS)) == 0


# -- clusters -------------------------------------------------------------------------------------------------------


def by_stars(edges):
    """Large star and small star in turn until nothing changes; as the exchanges do it, in one range."""
    for rounds in range(60):
        large = clusters.large_star(clusters.both_ways(edges))
        down = np.empty(len(large), EDGE)
        down["u"], down["v"] = large["v"], large["u"]
        small = clusters.small_star(down)
        if rounds and np.array_equal(small, edges):
            labels = clusters.labels_of_stars(small)
            found = dict(zip(labels["doc"].tolist(), labels["cluster"].tolist(), strict=True))
            return found | {centre: centre for centre in found.values()}, rounds
        edges = small
    raise AssertionError("the stars did not converge")


def at_once(edges):
    labels = clusters.components(edges)
    return dict(zip(labels["doc"].tolist(), labels["cluster"].tolist(), strict=True))


def by_scipy(edges):
    """The smallest member of each document's component, on SciPy's labels alone."""
    docs = sorted({end for pair in edges for end in pair})
    place = {doc: i for i, doc in enumerate(docs)}
    u, v = ([place[pair[side]] for pair in edges] for side in (0, 1))
    matrix = coo_array((np.ones(len(edges)), (u, v)), shape=(len(docs), len(docs)))
    label = connected_components(matrix, directed=False)[1]
    least = {}
    for doc, component in zip(docs, label.tolist(), strict=True):
        least.setdefault(component, doc)
    return {doc: least[component] for doc, component in zip(docs, label.tolist(), strict=True)}


node = st.integers(0, 40) | st.integers(0, 3).map(lambda task: task << 32 | 5)
graph = st.lists(st.tuples(node, node).filter(lambda pair: pair[0] != pair[1]).map(sorted).map(tuple), max_size=80)


@settings(max_examples=200, deadline=None)
@given(graph)
def test_stars_and_the_shortcut_find_the_components(found):
    edges = candidates.unique(edges_of(found))
    assert by_stars(edges)[0] == at_once(edges) == by_scipy(found)


@pytest.mark.parametrize("shape", ["path", "shuffled path", "two paths and a bridge", "binary tree", "star", "clique"])
def test_long_and_wide_graphs_converge_in_few_rounds(shape):
    rng = np.random.default_rng(4)
    count = 3000
    name = rng.permutation(count) if shape != "path" else np.arange(count)
    paths = {
        "path": [(i, i + 1) for i in range(count - 1)],
        "two paths and a bridge": [(i, i + 2) for i in range(count - 2)] + [(count - 2, count - 1)],
        "binary tree": [(i, (i - 1) // 2) for i in range(1, count)],
        "star": [(0, i) for i in range(1, count)],
        "clique": [(i, j) for i in range(60) for j in range(i)],
    }
    chosen = paths.get(shape.removeprefix("shuffled "), [])
    found = [tuple(sorted((int(name[a]), int(name[b])))) for a, b in chosen]
    edges = candidates.unique(edges_of(found))
    labels, rounds = by_stars(edges)
    assert labels == at_once(edges) == by_scipy(found)
    assert rounds <= 16  # log2(3000) = 11.6 and the one that finds nothing to do


def test_no_edges_are_no_clusters():
    assert len(clusters.components(np.empty(0, EDGE))) == 0
    assert by_stars(np.empty(0, EDGE))[0] == {}


# -- survivors ------------------------------------------------------------------------------------------------------


def signed_chain(steps, permutations=256, bands=BANDS):
    """Signatures of which each agrees with the next in all but every `steps`-th band; J of neighbours is known."""
    rng = np.random.default_rng(6)
    chain = [rng.integers(0, 2**32, permutations, np.uint32)]
    rows = permutations // bands
    for changed in steps:
        following = chain[-1].copy()
        for band in changed:
            following[band * rows : (band + 1) * rows] = rng.integers(0, 2**32, rows, np.uint32)
        chain.append(following)
    return np.array(chain)


def test_a_chain_keeps_its_unlike_ends():
    # A ~ B and B ~ C at 28/32 = 0.875; A and C agree on 24/32 = 0.75.
    signature = signed_chain([range(0, 4), range(4, 8)])
    members = members_of(signature, length=[3, 2, 1])  # A before B before C
    drops = survivors.near_duplicates(members, THRESHOLD, BANDS, KEEP)
    assert drops["doc"].tolist() == [1] and drops["kept"].tolist() == [0]
    assert drops["jaccard"].tolist() == [0.875] and not drops["exact"].any()
    middle_first = members_of(signature, length=[2, 3, 1])
    drops = survivors.near_duplicates(middle_first, THRESHOLD, BANDS, KEEP)
    assert drops["doc"].tolist() == [0, 2] and drops["kept"].tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_every_kept_id_is_kept_and_nothing_similar_is_left(seed, count):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**32, (max(1, count // 6), 256), np.uint32)
    signature = base[rng.integers(0, len(base), count)]
    for row in signature:
        bands = rng.integers(0, 32, rng.integers(0, 9))
        row.reshape(32, 8)[bands] = rng.integers(0, 2**32, (len(bands), 8))
    cluster = rng.integers(0, 2, count)
    members = members_of(signature, cluster, length=rng.integers(0, 3, count))
    drops = survivors.near_duplicates(members, THRESHOLD, BANDS, KEEP)
    again = survivors.near_duplicates(members[rng.permutation(count)], THRESHOLD, BANDS, KEEP)
    assert np.array_equal(drops, again)
    assert np.array_equal(drops["doc"], np.unique(drops["doc"]))
    assert not np.isin(drops["kept"], drops["doc"]).any()
    order = np.argsort(survivors.priority_order(members, KEEP))
    for drop in drops:
        doc, kept = int(drop["doc"]), int(drop["kept"])
        agree = estimated_jaccard(signature[doc : doc + 1], signature[kept : kept + 1])[0]
        assert drop["jaccard"] == np.float32(agree) and agree >= THRESHOLD
        assert order[kept] < order[doc] and cluster[doc] == cluster[kept] == drop["cluster"]
    left = np.setdiff1d(np.arange(count), drops["doc"].astype(np.int64))
    keys = band_keys(signature, BANDS)
    for i in left.tolist():
        for j in left[left > i].tolist():
            if cluster[i] == cluster[j] and (keys[i] == keys[j]).any():
                assert np.mean(signature[i] == signature[j]) < THRESHOLD


def test_the_keys_decide_in_the_order_they_are_given():
    made = np.zeros(5, EXACT)
    made["doc"] = [10, 11, 12, 13, 14]
    made["source_priority"] = [0, 0, 0, 0, 1]
    made["quality"] = [np.nan, 0.5, -2.0, 0.5, -9.0]
    made["length"] = [999, 10, 20, 11, 1]
    in_order = lambda *keep: made["doc"][survivors.priority_order(made, keep)].tolist()  # noqa: E731
    assert in_order(*KEEP) == [14, 13, 11, 12, 10]
    assert in_order("length") == [10, 12, 13, 11, 14]
    assert in_order("id") == in_order() == [10, 11, 12, 13, 14]
    assert in_order("quality") == [11, 13, 12, 14, 10]


def test_a_missing_quality_is_below_every_quality():
    made = np.zeros(3, EXACT)
    made["doc"], made["quality"] = [0, 1, 2], [np.nan, -np.inf, -1e300]
    assert survivors.priority_order(made, ("quality",)).tolist() == [2, 0, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=40), st.randoms())
def test_exact_groups_keep_their_first_by_priority(rows, chance):
    made = np.zeros(len(rows), EXACT)
    made["doc"] = np.arange(len(rows))
    for i, (group, other, length) in enumerate(rows):
        made[["hash0", "hash1", "length"]][i] = (group, other, length)
    shuffled = made[chance.sample(range(len(made)), len(made))]
    copies = np.sort(survivors.exact_copies(shuffled, KEEP), order="doc")
    expected = []
    for i, row in enumerate(rows):
        group = [j for j, other in enumerate(rows) if other[:2] == row[:2]]
        best = min(group, key=lambda j: (-rows[j][2], j))
        if best != i:
            expected.append((i, best))
    assert list(zip(copies["doc"].tolist(), copies["kept"].tolist(), strict=True)) == expected


def test_a_cluster_of_ten_thousand_copies_is_not_quadratic():
    signature = signed_chain([])
    began = time.process_time()
    drops = survivors.near_duplicates(members_of(np.repeat(signature, 10_000, axis=0)), THRESHOLD, BANDS, KEEP)
    assert time.process_time() - began < 5
    assert len(drops) == 9_999 and np.all(drops["kept"] == 0)


# -- records --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=50))
def test_split_and_join_lose_nothing_and_keep_order(destinations):
    made = np.zeros(len(destinations), EDGE)
    made["u"] = np.arange(len(made))
    blocks = list(records.split(made, np.array(destinations, np.int64)))
    assert [number for number, _ in blocks] == sorted(set(destinations))
    for number, block in blocks:
        expected = [i for i, destination in enumerate(destinations) if destination == number]
        assert records.join([block], EDGE)["u"].tolist() == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.integers(1, 5000))
def test_ranges_are_equal_parts_of_the_key_space_in_order(keys, ranges):
    keys = np.sort(np.array(keys, np.uint64))
    found = records.in_range(keys, ranges)
    assert found.min() >= 0 and found.max() < ranges and np.all(np.diff(found) >= 0)
    ends = records.in_range(np.array([0, 2**64 - 1], np.uint64), ranges)
    assert ends.tolist() == [0, ranges - 1]


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.lists(st.integers(0, 2**32 - 1)))
def test_numbers_hold_task_and_row(task, rows):
    found = records.numbers(task, np.array(rows, np.int64))
    assert records.row_of(found).tolist() == rows
    assert records.task_of(found).tolist() == [task] * len(rows)
