"""Where a residual branch ends: the linear maps of a flow whose output goes into the stream it left, and nowhere else.

A map ends a branch where every way its output takes leads, through nothing but what moves entries about (reshapes,
permutations, window merges, padding, casts, gathering experts) and scales (a number, a learned vector, a batch
normalization, a gate that is bounded), into a sum with a value that the map's own input was computed from: its stream.

- A sum may have more terms: attention and MLP side by side, routed and shared experts.
- A batch normalization is a scale: fixed in evaluation, and of a constant it is its own bias in training. Its gradient
  is ``1 / sqrt(eps)`` times as large there, and what comes after the first step is of unit variance whatever the step.
- A normalization over features is none: it would undo the start.
- Two maps whose product is added to a stream are no ends: with both at zero neither would ever get a gradient. So a
  gate has to come from a bounded function (a router's softmax, squeeze-and-excitation's sigmoid), not from a map.
- In a block that changes the size of its stream the shortcut is a convolution (with its normalization, or a pool). The
  branch ends as in any other block, as where torchvision and timm zero the last normalization of all blocks; the
  shortcut's convolution is no end, being all that is left of the stream.

What it gains to start them at zero: ``kronfx/decisions/zero_start.md``.
"""

from __future__ import annotations

from kronfx.graph.flow import Flow, Step

# Operation -> the operands that come through as they are; of the others (indices, conditions) nothing does.
FIRST, LAST = (0,), (-1,)
_RESHAPES = dict.fromkeys(
    ("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "clone",
     "_to_copy", "to", "alias", "detach", "contiguous", "roll", "lift_fresh", "flip", "pixel_shuffle", "movedim"),
    FIRST,
)  # fmt: skip
_PIECES = dict.fromkeys(
    ("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "as_strided", "expand", "repeat",
     "index", "index_select", "gather", "constant_pad_nd", "sum", "masked_fill", "neg", "dropout", "native_dropout"),
    FIRST,
)  # fmt: skip
_JOINS = {
    "copy": LAST, "cat": None, "stack": None, "where": None, "write": None, "index_add": None, "index_put": None,
    "index_copy": None, "scatter": None, "scatter_add": None, "slice_scatter": None, "select_scatter": None,
    "_index_put_impl": None,
}  # fmt: skip
_MOVES = {**_RESHAPES, **_PIECES, **_JOINS}
_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update",
}  # fmt: skip
_POOLS = {"avg_pool2d", "max_pool2d_with_indices", "max_pool2d", "_adaptive_avg_pool2d", "avg_pool1d", "mean"}
_SUMS = {"add", "sub"}
# What is bounded whatever goes in, and what a caller hands in (masks).
_GATES = {
    "sigmoid", "hardsigmoid", "_softmax", "softmax", "_safe_softmax", "tanh", "hardtanh", "given", "eq", "ne", "lt",
    "le", "gt", "ge", "logical_not", "bitwise_not", "logical_and", "logical_or",
}  # fmt: skip
_PICKS = {"mul", "div", "add", "topk", "sort", "clamp_min", "clamp"}
_CONVOLUTIONS = {"convolution", "conv1d", "conv2d", "conv3d", "_convolution"}
_FUSED = {"addmm", "baddbmm", "addcmul"}  # a sum of the first operand and a product of the other two
_LINEAR = {"mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "_grouped_mm"} | _CONVOLUTIONS


class Ends:
    """The ends of one flow, looked for map by map.

    What leaves a ``whole`` model is added to nothing; what leaves a part of one may be.
    """

    def __init__(self, flow: Flow, whole: bool) -> None:
        self.steps, self.users, self.whole = flow.steps, flow.users(), whole

    def verdicts(self) -> dict[int, list[bool | None]]:
        """Weight -> of each of its uses whether it ends a branch, or None where that was not to be seen."""
        found: dict[int, list[bool | None]] = {}
        for number, step in enumerate(self.steps):
            if step.op not in _LINEAR:
                continue
            x, matrix = self._operands(step)
            for weight in self.steps[matrix].read | (frozenset() if step.data else self.steps[x].read):
                found.setdefault(weight, []).append(self._ends(number, x) if step.data else False)
        return found

    def _operands(self, step: Step) -> tuple[int, int]:
        """What goes into a linear map, and its matrix, whichever side it is on."""
        first, second = step.inputs[1:3] if step.op in _FUSED else step.inputs[:2]
        return (second, first) if self.steps[first].read else (first, second)

    def _ends(self, number: int, x: int) -> bool | None:
        """Follow the output forwards until it is added to the stream of ``x``, or does something else."""
        if self.steps[number].op in _FUSED and self._meets(number, x):
            return True
        passed, added, gated, left, leaves = {number}, set[int](), set[int](), list[int](), False
        front = [number]
        while front:
            current = front.pop()
            leaves |= not self.users[current]
            for user in self.users[current]:
                if user in passed or user in added:
                    continue
                if self._is_sum(user, current) and self._meets(user, x):
                    added.add(user)
                elif self._passes(user, current):
                    passed.add(user)
                    front.append(user)
                    if self.steps[user].op == "mul":
                        gated.add(user)
                else:
                    left.append(user)
        if any(not self._returns(user, gated) for user in left):
            return False
        return None if leaves and not added and not self.whole else bool(added)

    def _returns(self, start: int, gated: set[int], longest: int = 64) -> bool:
        """Whether all that comes of a step is a gate that the output opens for itself."""
        seen, front = set[int](), [start]
        while front and len(seen) < longest:
            current = front.pop()
            if current in gated or current in seen:
                continue
            seen.add(current)
            if not self.users[current]:
                return False
            front += self.users[current]
        return not front

    def _is_sum(self, number: int, operand: int) -> bool:
        step = self.steps[number]
        if step.op == "addcmul" and operand in step.inputs[1:]:
            return not all(self.steps[one].data for one in step.inputs[1:])
        if step.op in _FUSED:
            return step.inputs[0] == operand
        return step.op in _SUMS and len(step.inputs) == 2

    def _passes(self, number: int, operand: int) -> bool:
        """Whether this operand comes through the step moved or scaled, and no more."""
        step = self.steps[number]
        if step.op in _MOVES:
            return operand in self._moved(step)
        if step.op in _NORMS:
            return step.inputs[0] == operand and len(step.inputs) > 2
        if self._is_sum(number, operand):
            return True
        if step.op in ("mul", "div"):
            return self._scales(step, operand)
        return False

    def _moved(self, step: Step) -> tuple[int, ...]:
        places = _MOVES[step.op]
        return step.inputs if places is None else tuple(step.inputs[place] for place in places)

    def _scales(self, step: Step, operand: int) -> bool:
        """Whether what the operand is multiplied with is a constant or a bounded gate."""
        if step.op == "div" and step.inputs[0] != operand:
            return False
        others = [one for one in step.inputs if one != operand]
        if len(step.inputs) == 2 and not others:  # its square
            return False
        return all(not self.steps[one].data or self._is_gate(one, operand) for one in others)

    def _is_gate(self, number: int, operand: int) -> bool:
        """Whether it is made of bounded functions alone, picked from, moved, scaled by their own sum."""
        seen, front = set[int](), [number]
        while front:
            current = front.pop()
            step = self.steps[current]
            if current in seen or not step.data or step.op in _GATES:
                continue
            if current == operand or step.op not in _PICKS | _MOVES.keys():
                return False
            seen.add(current)
            front += self._moved(step) if step.op in _MOVES else step.inputs
        return True

    def _meets(self, total: int, x: int) -> bool:
        """Whether a term of the sum is a stream of the input ``x``: one of its ancestors, or ``x`` itself."""
        plain, projected = self._terms(total)
        if any(self._precedes(term, x) for term in plain):
            return True
        return any(self._precedes(term, x) and not self._linearly(term, x) for term in projected)

    def _terms(self, total: int) -> tuple[list[int], list[int]]:
        """What a sum is made of: its terms as they are (reshaped, scaled), and what a shortcut makes some of.

        A constant is a stream where it is as large as the sum (class tokens, queries), not where it is a bias.
        """
        plain, projected = list[int](), list[int]()
        whole = self.steps[total]
        seen, front = {total}, [(one, False) for one in (whole.inputs[:1] if whole.op in _FUSED else whole.inputs)]
        while front:
            number, shortened = front.pop()
            step = self.steps[number]
            if number in seen or not (step.data or step.size == whole.size):
                continue
            seen.add(number)
            (projected if shortened else plain).append(number)
            of_data = [one for one in step.inputs if self.steps[one].data]
            if step.op in _SUMS:
                front += [] if shortened else [(one, False) for one in step.inputs]
            elif step.op in _RESHAPES or step.op in _FUSED:
                front += [(one, shortened) for one in step.inputs[:1]]
            elif step.op in ("mul", "div") and len(of_data) == 1:
                front += [(one, shortened) for one in of_data]
            elif step.op in _CONVOLUTIONS | _NORMS | _POOLS or step.op == "constant_pad_nd":
                front += [(one, True) for one in step.inputs[:1]]
        return plain, projected

    def _precedes(self, earlier: int, later: int) -> bool:
        """Whether ``later`` was computed from ``earlier``, or is it."""
        seen, front = set[int](), [later]
        while front:
            current = front.pop()
            if current == earlier:
                return True
            if current > earlier and current not in seen:
                seen.add(current)
                front += self.steps[current].inputs
        return False

    def _linearly(self, earlier: int, later: int) -> bool:
        """Whether ``later`` comes from ``earlier`` through maps, normalizations and pools alone: two maps of one input
        side by side, not a branch and its shortcut."""
        front = [later]
        while front:
            current = front.pop()
            if current == earlier:
                return True
            step = self.steps[current]
            if current <= earlier:
                continue
            if step.op in _LINEAR and step.data:
                front.append(self._operands(step)[0])
            elif step.op in _SUMS:
                front += step.inputs
            elif step.op in _NORMS | _POOLS | _MOVES.keys():
                front += step.inputs[:1]
        return False
