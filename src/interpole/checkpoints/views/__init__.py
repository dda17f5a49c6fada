"""Views of a checkpoint: other formats and layouts shown as what a merge expects, computed on read, in flat memory.

`fp8` and `scaled` dequantise, `adapter` puts a LoRA on its base, `experts` shows fused experts apart, `vocabulary` aligns rows
by token, `renaming`, `heads` and `stacking` show tensors under other names. Each is a `Checkpoint` on a `Checkpoint`.
"""

__all__: list[str] = []
