"""HTTP without a framework: neutral requests and responses, and who answers them."""
