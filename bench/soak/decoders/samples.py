"""What a fuzzer begins with: bytes that decoders take, and some that it would hardly come by."""

NOW_MS = 1_764_000_000_000
MODEL = "temporal_llm"
CLICK_EVENT = (
    b'{"event_id":"e","user_id":"ann","item_id":"i","timestamp":1764000000000,'
    b'"context":{"device":"phone"},"price":12.5,"quantity":2,"type":"click"}'
)
RATED = (
    b'{"event_id":"e","user_id":"ann","item_id":"i","timestamp":1764000000000,"value":4,'
    b'"seconds":60,"length":90,"recommendation_id":"r","position":3}'
)
ITEM = b'{"item_id":"i","title":"A","category":["b"],"attributes":{"c":1},"available":true}'
PLACEMENT = b'{"filter":"item.price < 12","limit":5,"fallback":"nothing"}'
LETTER = b'{"raw":"AAAA","topic":"clicks","partition":0,"offset":1,"reason":"a","refused_time":2}'
ROUTED = (
    b'{"model":"temporal_llm","versions":[{"version":1,"variant":"stable","share":1,'
    b'"address":"/v"}],"time":1764000000000,"rollout_id":"r","sequence":3}'
)
# By what follows the model in the message's key.
ROLLOUTS = {
    "": ROUTED,
    "/history/x/1": b'{"rollout":%s,"actor":"a","reason":"b","inputs":{"a":1}}' % ROUTED,
    "/command/c": (
        b'{"command_id":"c","model":"temporal_llm","action":"promote","actor":"a","reason":"b",'
        b'"time":1764000000000,"version":2,"sequence":3}'
    ),
    "/answer/c": b'{"command_id":"c","accepted":true,"reason":"b","time":1764000000000}',
    "/lease": b'{"model":"temporal_llm","rollout_id":"r","sequence":3,"time":1764000000000}',
}
# Of the topic `identities`, about the person whose key is `IDENTITY_KEY`.
IDENTITY_KEY = b"g"
IDENTITIES = (
    b'{"type":"merge","merge_id":"m","guest":"g","member":"ann"}',
    b'{"type":"erasure","erasure_id":"m","user_id":"g"}',
    (
        b'{"type":"hand-over","merge_id":"m","user_id":"g","guest":"x","features":"{}",'
        b'"row":{"counters":"AAAA"},"arrived_time":1764000000000,"by":["x"]}'
    ),
    (
        b'{"type":"sent-on","user_id":"g","topic":"clicks","arrived_time":1764000000000,"by":["x"],'
        b'"event":{"event_id":"e","user_id":"g","item_id":"i","timestamp":1764000000000}}'
    ),
    (
        b'{"type":"erased","erasure_id":"m","user_id":"g","offsets":{"1":2},'
        b'"arrived_time":1764000000000}'
    ),
)
# Of the API and of the console's operations: each is taken by one of the structs, or by several.
BODIES = (
    b'{"person":"ann","limit":5,"filter":"item.price < 12","events":[%s],"exclude":["a"],'
    b'"min_offset":{"clicks/2":7},"context":{"device":"phone"},"placement":"home",'
    b'"candidates":["b"]}' % CLICK_EVENT,
    b'{"items":["a","b"],"filter":"item.price < 12"}',
    b'{"items":[%s]}' % ITEM,
    b'{"attributes":{"city":"Ghent"}}',
    b'{"filter":"person.age > 40"}',
    b'{"member":"ann"}',
    b'{"reason":"too many of a brand","by":"ann","rules":{"limit":5}}',
    b'{"reason":"sales fall","by":"ann","rollout_id":"r1"}',
    PLACEMENT,
    b'{"person":"ann","leave_out":["clicks/0/7"],"at":1764000000000,"version":2,"limit":5}',
    b'{"reason":"a try","version":2,"actor":"ann"}',
    b'{"reason":"a try","version":2}',
    b'{"reason":"a try"}',
    b'{"filter":"item.price <","limit":5,"more":"{}"}',
    b'{"filter":"item.price < 3","people":["ann"],"count":2,"context":{"device":"phone"}}',
    b'{"filter":"item.price < 3","days":2.5,"lists":100}',
    b'{"filter":"item.price < 3","reason":"a try","follows":7}',
    b'{"reason":"a typo","text":"{}","again":true}',
    (
        b'{"reason":"a typo","rules":[{"do":"scale","field":"timestamp","factor":1000}],'
        b'"letters":["0-17"]}'
    ),
    b'{"reason":"enough","action":"rollback","sequence":3}',
)
QUERY_STRINGS = (
    b"",
    b"limit=3&category=tea&filter=item.price+%3C+12&segment=vip",
    b"person=ann&hours=12",
    b"person=ann&hours=12&limit=5",
    b"text=lamp&limit=5",
    b"kind=category&category=tea",
    b"fault=0123456789abcdef&topic=clicks",
)
# Each was no refusal once.
CLOUD_OF_NO_TEXT = (
    b'{"specversion":"1.0","type":"shop.click","id":"e","source":"/shop","subject":"ann",'
    b'"data":{"type":"shop.\xffclick","item_id":"i"}}'
)
CONTROL_IN_HEADING = b"1aP\x08user_id;item_id;timestamp;type\nann;i;1764000000;click\n"
FILTERS = (
    b'"\\\x00800"',
    b'item.brand == "acme" && !(item.price > 12.5 || "new" in item.category)',
    b'has(item.attributes.size) ? item.attributes.size in [1, 2] : context.device != "tv"',
    b'item.title.startsWith("A") || item.title.contains("b") && size(item.category) >= 2',
)
# What a fuzzer would hardly come by: very deep, very long, no text.
ODD = (
    *(opening * 5_000 for opening in (b"[", b'{"a":', b"a={b=", b"(", b"!", b"a.")),
    *(b"[" * 200 + b"]" * 200, b"a=" + b"[" * 3_000 + b"]" * 3_000, b"\0" * 100, b"PAR1" * 20),
    *(b'{"a":"\xff"}', b'{"kind":"\xed\xa0\x80"}', b'"\\ud800"', b"\xff\xfe", b"9" * 5_000),
    *(b"a=" + b"9" * 5_000, b'{"timestamp":' + b"9" * 5_000 + b"}", b"a=2024-99-99"),
)
