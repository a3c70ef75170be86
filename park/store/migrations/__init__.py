"""The numbered SQL files; `park.store.schema` applies them."""
