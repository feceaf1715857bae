"""The control plane: seconds to hours, never in a request. Of the gateway it knows `gateway.core` only."""
