"""The models in other libraries; nothing here is loaded or registered until it is used."""
