"""The connection to Valkey (or Redis) that the stages share: bounded waits, one circuit, commands nobody waits for."""
