"""What people say of latents: a blinded study in the browser, and what its answers amount to."""
