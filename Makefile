.PHONY: bench check demo faults soak

bench check demo faults soak:
	python3 dev.py $@
