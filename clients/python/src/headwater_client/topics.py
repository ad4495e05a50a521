"""The topics that apps and Headwater share, and how messages are put on them."""

ITEMS = "items"
PEOPLE = "people"
IDENTITIES = "identities"
RECOMMENDATIONS = "recommendations"
SERVED = "served"
DEAD_LETTERS = "dead-letters"
PLACEMENTS = "placements"
ROLLOUTS = "rollouts"
ROLLOUT_COMMANDS = "rollout-commands"
AUDIT = "audit"

# librdkafka's name of the Java client's partitioner: whoever sends, a key has one partition.
PARTITIONER = "murmur2_random"

# A dead letter holds a message of Kafka's default limit, 1 MiB, as base64, and says why.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
