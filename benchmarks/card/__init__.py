"""One run on one card: ``bash benchmarks/gpu.sh OUT.json`` (``--help`` says what it needs).

Sections, each with a time of its own, each failure caught and written down:

    rate      what a big matrix product reaches, in each precision
    plan      batches and memory of the 8B shape, planned on the meta device
    laws      laws 1 to 3 and 7 on tiny models, in float32 and bfloat16
    model     the 8B shape with random weights, made on the card, proved; law 1 on it
    waits     nothing waits for the card inside the loop of batches
    jobs      Z, P and last beside the hook loop, nnsight and the cached loop
    loss      loss and divergence over windows beside hook loops
    thinking  the latent loop beside the published procedure
    memory    a batch that the card refuses is halved, and the table is the same

``page`` puts what came of it into docs/benchmarks.md.
"""
