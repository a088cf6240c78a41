"""Words that the titles of the built-in catalogue are made of."""

TOPIC_WORDS: tuple[tuple[str, ...], ...] = (
    ("sourdough", "focaccia", "rye bread", "croissants", "flatbread", "brioche"),
    ("trail bike", "gravel ride", "bike brakes", "mountain pass", "wheel truing", "bike packing"),
    ("night sky", "telescope", "comet", "moon craters", "meteor shower", "star cluster"),
    ("tomato bed", "compost", "rose pruning", "seedlings", "herb garden", "raised beds"),
    ("oak table", "dovetail joint", "hand plane", "bookshelf", "wood carving", "workbench"),
    ("acoustic guitar", "fingerpicking", "chord changes", "blues scale", "slide guitar", "strings"),
    ("coral reef", "free diving", "sea turtles", "tide pools", "shipwreck", "kelp forest"),
    ("steam engine", "model railway", "signal box", "narrow gauge", "locomotive", "night train"),
    ("watercolour", "ink drawing", "portrait sketch", "landscape painting", "charcoal", "gouache"),
    ("chess opening", "endgame", "knight fork", "pawn structure", "blitz games", "queen sacrifice"),
)
"""One tuple per topic."""

STYLE_WORDS: tuple[tuple[str, ...], ...] = (
    ("step by step", "tutorial", "for beginners"),
    ("a day with", "my diary", "behind the scenes"),
    ("tested", "honest review", "compared"),
    ("the history of", "documentary", "a portrait"),
    ("challenge", "in 24 hours", "against the clock"),
    ("quiet", "no talking", "slow and calm"),
)
"""One tuple per style."""

SERIES_FIRST: tuple[str, ...] = (
    "Copper", "Wandering", "Northern", "Paper", "Velvet", "Second", "Hollow", "Amber", "Silent",
    "Lucky", "Crooked", "Winter", "Golden", "Borrowed", "Little", "Distant",
)  # fmt: skip

SERIES_SECOND: tuple[str, ...] = (
    "Kettle", "Compass", "Lantern", "Harbour", "Workshop", "Sunday", "Orchard", "Fox", "Window",
    "Letters", "Hours", "Bridge",
)  # fmt: skip

VAGUE_TITLES: tuple[str, ...] = (
    "You have to see this",
    "I did not expect that",
    "Finally!",
    "This changes everything, honestly",
    "We tried it again",
    'They said "impossible"',
    "What happened next",
    "A small update",
    "Nobody talks about this",
    "Was it worth it?",
)

TOPIC_TEMPLATES: tuple[str, ...] = (
    "{topic}",
    "All about {topic}",
    "{topic} and {other}",
    "My {topic}, finally",
    "{topic}: what I learned",
    "Why {topic} matters",
)
