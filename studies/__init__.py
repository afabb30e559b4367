"""Scripts that gathered evidence once: README.md says what each showed. Neither `make bench` nor the tests run them."""
