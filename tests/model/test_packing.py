import numpy as np

from reptile_scaling.model.packing import pack_tokens


def test_packed_prompts_stand_end_to_end() -> None:
    token_ids = [[1, 2, 3], [4], [5, 6]]
    packed = pack_tokens(token_ids, [np.array([2, 0]), np.array([1])])
    assert packed.token_ids.tolist() == [5, 6, 1, 2, 3, 4]
    assert packed.positions.tolist() == [0, 1, 0, 1, 2, 0]
    assert packed.starts.tolist() == [0, 2, 5]
    assert packed.token_offsets == [0, 5, 6]
    assert packed.prompt_offsets.tolist() == [0, 2, 3]
