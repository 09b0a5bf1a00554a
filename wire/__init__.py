"""What crosses between the proxy and the backend. Pure: nothing in here touches the network."""
