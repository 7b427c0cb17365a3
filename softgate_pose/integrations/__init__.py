"""Other libraries' ways of using the models; nothing here is loaded or registered unless it is asked for."""
