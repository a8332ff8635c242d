"""headlab beside its peers, on one machine, in one command: ``python -m benchmarks`` from the repository root.

1. ``making`` writes a random model, its tokenizer and the jobs (prompts and interventions) to a temporary folder.
2. ``driver`` starts one worker process for each library, in an environment of its own (``envs``); each loads the model
   once.
3. In every round each method does its share of the job once, in an order drawn anew, with a matrix product of the
   model's shape beside them; ``timing`` counts CPU seconds (on a GPU: wall seconds, synchronised).
4. Every method's answers are compared with the reference: a plain hook on the model's own output projection.
5. ``results`` keeps every round; ``page`` writes docs/benchmarks.md from what was kept.
"""
