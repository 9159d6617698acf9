"""How values and calls look on the wire: XML-RPC, JSON-RPC, and the types both share."""
