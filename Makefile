.PHONY: bench check demo soak

bench check demo soak:
	python3 dev.py $@
