"""`python -m gateway.cli`."""

from gateway.cli import app

if __name__ == "__main__":
    app(prog_name="vector-memory")
