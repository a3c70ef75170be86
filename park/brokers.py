"""How MQTT brokers are reached that need more than a URL: the entries of the section `brokers` of park.yaml.

Secrets never stand in park.yaml: an entry names the environment variable or file that holds them.
"""

from __future__ import annotations

from park.entry import Entry


class MqttBroker(Entry):
    """An MQTT broker."""

    id: str
    url: str
