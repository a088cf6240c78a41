"""The models of stage 2 written naively: one sequence, one token, one head at a time.

Nothing here is shared with the library but the weights.
"""

import math

import torch
from torch import Tensor

from sicsrec.models.content_encoder import ContentEncoder
from sicsrec.models.gru4rec import Gru4Rec
from sicsrec.models.id_encoder import IdEncoder
from sicsrec.models.sicsrec import SICSRec

EPS = 1e-12


def linear(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    y = layer.weight @ x
    return y if layer.bias is None else y + layer.bias


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean().item() + EPS) * norm.weight + norm.bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def attend(queries: list[Tensor], sources: list[Tensor], attention) -> list[Tensor]:
    """Causal attention of every query token over the source tokens up to its own place."""
    width = queries[0].numel()
    head = width // attention.n_heads
    q = [linear(x, attention.query) for x in queries]
    kv = [linear(y, attention.key_value) for y in sources]
    outputs = []
    for t in range(len(queries)):
        heads = []
        for h in range(attention.n_heads):
            cut = slice(h * head, (h + 1) * head)
            logits = [q[t][cut] @ kv[s][:width][cut] / math.sqrt(head) for s in range(t + 1)]
            weights = [math.exp(float(x)) for x in logits]
            heads.append(sum(w * kv[s][width:][cut] for s, w in enumerate(weights)) / sum(weights))
        outputs.append(linear(torch.cat(heads), attention.output))
    return outputs


def adapter(x: Tensor, module) -> Tensor:
    if isinstance(module, torch.nn.Identity):
        return x
    return x + module.lora_b.weight @ (module.lora_a.weight @ x)


def transformer_layer(x: list[Tensor], source: list[Tensor], layer) -> list[Tensor]:
    read = attend(x, source, layer.attention)
    x = [
        layer_norm(a + adapter(b, layer.attention_adapter), layer.attention_norm)
        for a, b in zip(x, read, strict=True)
    ]
    changed = [
        linear(gelu(linear(a, layer.feed_forward.inner)), layer.feed_forward.outer) for a in x
    ]
    return [
        layer_norm(a + adapter(b, layer.feed_forward_adapter), layer.feed_forward_norm)
        for a, b in zip(x, changed, strict=True)
    ]


def transformer(x: list[Tensor], tower) -> list[Tensor]:
    x = [layer_norm(a, tower.input_norm) for a in x]
    for layer in tower.layers:
        x = transformer_layer(x, x, layer)
    return x


def position(model: IdEncoder | ContentEncoder, t: int, n: int) -> Tensor:
    """The learned position of token t of n."""
    place = t if model.positions == "from_start" else n - 1 - t
    return model.position_embedding.weight[place]


def id_states(model: IdEncoder, items: list[int]) -> list[Tensor]:
    embedded = [
        model.item_embedding.weight[item] + position(model, t, len(items))
        for t, item in enumerate(items)
    ]
    return transformer(embedded, model.transformer)


def gru_states(model: Gru4Rec, items: list[int]) -> list[Tensor]:
    """Cell by cell, every layer from an empty state."""
    x = [model.item_embedding.weight[item] for item in items]
    for layer in model.layers:
        [(w_x, w_h, b_x, b_h)] = layer.all_weights
        h, states = torch.zeros(layer.hidden_size), []
        for token in x:
            (xr, xz, xn), (hr, hz, hn) = (w_x @ token + b_x).chunk(3), (w_h @ h + b_h).chunk(3)
            reset, update = 1 / (1 + torch.exp(-(xr + hr))), 1 / (1 + torch.exp(-(xz + hz)))
            h = (1 - update) * torch.tanh(xn + reset * hn) + update * h
            states.append(h)
        x = states
    return [linear(h, model.output) for h in x]


def content_encoder_states(model: ContentEncoder, items: list[int]) -> list[Tensor]:
    inputs = [
        content_of(model, item) + position(model, t, len(items)) for t, item in enumerate(items)
    ]
    return transformer(inputs, model.transformer)


def content_of(model: SICSRec | ContentEncoder, item: int) -> Tensor:
    total = torch.zeros(model.item_vectors().shape[1])
    for module in model.content_embedding.adapters.values():
        if module.present[item]:
            hidden = linear(module.table.weight[item], module.inner)
            total = total + linear(torch.clamp(hidden, min=0), module.outer)
        else:
            total = total + module.placeholder
    return unit(total)


def item_vector(model: SICSRec, item: int) -> Tensor:
    """What user vectors are compared with: norm2(e_i) or e_i, and w * c_i where it counts."""
    embedding = model.id_encoder.item_embedding.weight[item]
    if model.settings()["scoring"] == "raw":
        return embedding
    vector = unit(embedding)
    if model.settings()["item_scoring"] == "id":
        return vector
    return vector + float(model.item_scoring.weight) * content_of(model, item)


def sicsrec_states(model: SICSRec, items: list[int]) -> dict[str, list[Tensor]]:
    """All towers' hidden states of one sequence and the user vectors o."""
    h_id = id_states(model.id_encoder, items)
    inputs = [
        content_of(model, item) + position(model.id_encoder, t, len(items))
        for t, item in enumerate(items)
    ]
    h_content = transformer(inputs, model.content_encoder)
    query = [layer_norm(x, model.mix_decoder.query_norm) for x in h_id]
    source = [layer_norm(x, model.mix_decoder.key_value_norm) for x in h_content]
    for layer in model.mix_decoder.layers:
        query = transformer_layer(query, source, layer)
    fused = [
        unit(linear(torch.cat(parts), model.fusion))
        for parts in zip(h_id, h_content, query, strict=True)
    ]
    return {"id": h_id, "content": h_content, "mix": query, "user": fused}


def cross_entropy(user: Tensor, items: Tensor, target: int) -> float:
    """-log softmax over all items, of one target (item index from 1)."""
    logits = [float(user @ items[i]) for i in range(len(items))]
    top = max(logits)
    return -(logits[target - 1] - top - math.log(sum(math.exp(x - top) for x in logits)))


def contrast(users: list[Tensor], contents: list[Tensor], targets: list[int], tau: float) -> float:
    """L_con of a batch, pair by pair."""
    losses = []
    for t, user in enumerate(users):
        own = math.exp(float(user @ contents[t]) / tau)
        others = sum(
            math.exp(float(user @ contents[s]) / tau)
            for s in range(len(users))
            if targets[s] != targets[t]
        )
        losses.append(-math.log(own / (own + others)))
    return sum(losses) / len(losses)
