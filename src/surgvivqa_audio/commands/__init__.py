"""One file per command group; heavy imports happen inside the command that needs them."""
