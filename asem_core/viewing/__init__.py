"""The parts of viewing: what is shown, pictures, surfaces, and the server of the browser view."""
