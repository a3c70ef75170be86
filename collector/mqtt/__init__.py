"""JSON and plain numbers over MQTT 3.1.1: the connection in `client`, what a payload says in `payload`."""
