"""OPC UA by subscription: the connection in `client`, what to ask for in `tags`, what a value says in `values`."""
