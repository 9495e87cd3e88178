# The one entry point. Bare `make` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

include config/manager/images.env
export METALLB_CACHE ?= $(HOME)/.cache/metallb-operator
export NODES ?= 3
export CLUSTER
TARGET := $(shell $(or $(RUSTC),rustc) -vV 2>/dev/null | sed -n 's/^host: //p')
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Where the programs of the images are built.
PROGRAMS_DIR ?= $(CARGO_TARGET_DIR)
# The programs run on amd64 and arm64. ARCHS says for which they are built: for this machine's own, and by `make
# artifacts` for the other as well, where its standard library and a compiler that links for it are installed.
TARGET_amd64 := $(TARGET:aarch64-%=x86_64-%)
TARGET_arm64 := $(TARGET:x86_64-%=aarch64-%)
CC_amd64 := x86_64-linux-gnu-gcc
CC_arm64 := aarch64-linux-gnu-gcc
HOST_ARCH := $(if $(filter aarch64-%,$(TARGET)),arm64,amd64)
OTHER_ARCH := $(filter-out $(HOST_ARCH),amd64 arm64)
ARCHS ?= $(HOST_ARCH)
E2E := cargo run -q -p metallb-e2e --
# `quick` optimises the programs little and builds again only what changed, for trying a change on the cluster.
export PROFILE ?= release
PROGRAMS := operator controller speaker
ARCHIVES := $(PROGRAMS:%=target/images/%.tar)
# The tests in e2e/tests need root, Debian packages or the cluster, and run in `make e2e`.
UNIT := --workspace --exclude metallb-e2e

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---- everything a newcomer runs

.PHONY: demo
demo: preflight images ## From nothing to a client's HTTP answer, and a node powered off
	@$(E2E) up
	@$(E2E) deploy
	@$(E2E) demo

.PHONY: test
test: check e2e ## make check, the end-to-end tests on the real cluster, the packages up to date, and the demo
	@$(MAKE) -s packaged
	@$(MAKE) demo

.PHONY: preflight
preflight:
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces and installs Debian packages: run it as root" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust" >&2; exit 1; }
	@command -v go >/dev/null || { echo "go is missing: install Go 1.26 or later" >&2; exit 1; }
	@command -v apt-get >/dev/null || { echo "apt-get is missing: this needs a Debian machine" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "cc is missing: install gcc" >&2; exit 1; }

# ---- checks without a cluster

.PHONY: check
check: cargo-deny ## Format, lints, unit tests, docs, purity, generated files, licences; no cluster
	cargo fmt --all --check
	cargo clippy -q --workspace --all-targets -- -D warnings
	cargo test -q $(UNIT)
	cargo test -q -p metallb-e2e --lib
	RUSTDOCFLAGS="-D warnings" cargo doc -q --workspace --no-deps
	@$(MAKE) -s purity generated
	@"$(METALLB_CACHE)/cargo/bin/cargo-deny" --log-level error check licenses bans sources

.PHONY: purity
purity: ## Fail when a pure crate depends on a runtime or a client
	@for crate in metallb-core metallb-proto; do \
	  if found=$$(cargo tree -q -e normal -p $$crate --prefix none | grep -E '^(tokio|hyper|kube-client|kube-runtime) '); then \
	    echo "$$crate must stay pure, but depends on: $$found" >&2; exit 1; fi; done

.PHONY: generate
generate: docs ## Write the CRDs, and their reference in docs/api.md, from the Rust types
	@cargo run -q -p metallb-api --bin crdgen -- config/crd

.PHONY: docs
docs: ## Write docs/api.md from the Rust types
	@cargo run -q -p metallb-api --bin docgen -- docs/api.md

.PHONY: generated
generated: generate
	@git diff --exit-code --stat -- config/crd docs/api.md || { echo "config/crd or docs/api.md differs from the types: commit what \`make generate\` wrote" >&2; exit 1; }

.PHONY: cargo-deny
cargo-deny:
	@[ -x "$(METALLB_CACHE)/cargo/bin/cargo-deny" ] || { echo "building cargo-deny, once"; \
	  cargo install -q cargo-deny --version 0.20.2 --locked --root "$(METALLB_CACHE)/cargo"; }

# ---- the cluster

.PHONY: deps
deps: ## Install the Debian packages that are missing
	@$(E2E) deps

.PHONY: tools
tools: ## Build the Kubernetes programs that the cache lacks
	@$(E2E) tools

.PHONY: cluster
cluster: preflight ## Make a cluster of NODES nodes (3)
	@$(E2E) up

.PHONY: cluster-down
cluster-down: ## Remove the cluster
	@$(E2E) down

.PHONY: status
status: ## Show the cluster's hosts and nodes
	@$(E2E) status

.PHONY: kubeconfig
kubeconfig: ## Print the path of the administrator's kubeconfig, usable on host cp
	@$(E2E) kubeconfig

.PHONY: audit-log
audit-log: ## Print the path of the API server's audit log
	@$(E2E) audit-log

MODE ?= dark
.PHONY: power-off
power-off: ## Cut NODE off: MODE=dark (frames dropped) or link (carrier lost)
	@$(E2E) power-off "$(NODE)" --mode "$(MODE)"

.PHONY: power-on
power-on: ## Connect NODE again
	@$(E2E) power-on "$(NODE)"

.PHONY: load
load: ## Import the OCI archive IMAGE on every node
	@$(E2E) load "$(IMAGE)"

# ---- images and installation

.PHONY: images
images: deps ## Build the images of the three programs as OCI archives in target/images, and the kubectl plugin
	$(foreach arch,$(ARCHS),$(call COMPILE,$(arch)))
	@$(MAKE) -s $(ARCHIVES)

# Folder of the programs of architecture $(1).
BIN = target/images/bin$(if $(filter $(OTHER_ARCH),$(1)),-$(1))

# Cargo's variable for the linker of the other architecture.
LINKER := CARGO_TARGET_$(shell echo "$(TARGET_$(OTHER_ARCH))" | tr a-z- A-Z_)_LINKER=$(CC_$(OTHER_ARCH))

# The programs of architecture $(1), in its folder.
define COMPILE
@echo "building the programs for $(1)"
@RUSTFLAGS="-C target-feature=+crt-static $(REMAP)" CARGO_TARGET_DIR="$(PROGRAMS_DIR)" \
  $(if $(filter $(OTHER_ARCH),$(1)),$(LINKER)) cargo build -q $(LOCKED) --profile $(PROFILE) \
  --target $(TARGET_$(1)) -p metallb-operator -p metallb-balancer --bins
@mkdir -p $(call BIN,$(1))
@for program in $(PROGRAMS) kubectl-metallb; do \
  install -C "$(PROGRAMS_DIR)/$(TARGET_$(1))/$(PROFILE)/$$program" $(call BIN,$(1))/; done

endef

# How every archive is written that is published: equal input gives equal bytes.
TAR := tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=a+rX,u+w,go-w

# An OCI archive of the image $(2) as target/images/$(1).tar, from the arguments $(3) of the build, in which BIN stands for
# the folder of an architecture's programs. No time of the build is in it. Of several architectures it holds an index.
define ARCHIVE
@scratch="$(CURDIR)/target/images/scratch-$(1)"; rm -rf "$$scratch"; umask 022; \
  buildah="buildah --root $$scratch/storage --runroot $$scratch/run --storage-driver vfs"; \
  $(foreach arch,$(ARCHS),$$buildah bud -q --isolation chroot --timestamp 0 --platform linux/$(arch) \
    $(if $(word 2,$(ARCHS)),--manifest,-t) $(2) $(subst BIN,$(call BIN,$(arch)),$(3)) >/dev/null; ) \
  $$buildah $(if $(word 2,$(ARCHS)),manifest push -q --all,push -q) $(2) "oci:$$scratch/layout:$(2)" >/dev/null; \
  $(TAR) -C "$$scratch/layout" -cf target/images/$(1).tar blobs index.json oci-layout; \
  rm -rf "$$scratch"
endef

# Names the architectures for which the archives were built: others are others.
target/images/archs: FORCE
	@mkdir -p target/images; echo "$(ARCHS)" | cmp -s - $@ || echo "$(ARCHS)" > $@

.PHONY: FORCE
FORCE:

target/images/%.tar: $(foreach arch,$(ARCHS),$(call BIN,$(arch))/%) Containerfile config/manager/images.env target/images/archs
	@echo "building the image $(IMAGE_PREFIX)/$*:$(VERSION) for $(ARCHS)"
	$(call ARCHIVE,$*,$(IMAGE_PREFIX)/$*:$(VERSION),--target $* -f Containerfile BIN)

.PHONY: deploy
deploy: images ## Build, load and install the operator in the cluster
	@$(E2E) deploy

.PHONY: e2e
e2e: preflight images ## End-to-end tests on a new cluster (one that is up is replaced)
	@$(E2E) deps
	cargo test -q -p metallb-e2e --test l2_sockets
	cargo test -q -p metallb-balancer --lib -- --ignored
	@$(E2E) up
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test cluster -- --test-threads=1 --nocapture

.PHONY: e2e-lifecycle
e2e-lifecycle: preflight ## The cluster of the tests: made, broken, made again and removed; one that is up is replaced
ifneq ($(CLUSTER),external)
	@$(E2E) deps
	cargo test -q -p metallb-e2e --test lifecycle -- --test-threads=1
endif

.PHONY: e2e-definitions
e2e-definitions: ## Before a real API server alone: definitions and what was stored under earlier ones, what is written for OLM, OpenShift; no cluster
	cargo test -q -p metallb-e2e --test definitions -- --test-threads=1

.PHONY: e2e-oldest
e2e-oldest: export KUBERNETES := oldest
e2e-oldest: preflight images ## make e2e, the definitions and the operator's faults on the oldest Kubernetes that is supported; its cluster replaces one that is up
	cargo test -q -p metallb-e2e --test definitions -- --test-threads=1
	METALLB_OPERATOR=$(CURDIR)/target/images/bin/operator cargo test -q -p metallb-e2e --test operator_faults -- --test-threads=1 --nocapture
	@$(MAKE) -s e2e

.PHONY: e2e-controller
e2e-controller: images ## The controller against a faulty API server: killed, cut off, refused; no cluster, about ten minutes
	METALLB_CONTROLLER=$(CURDIR)/target/images/bin/controller cargo test -q -p metallb-e2e --test controller -- --test-threads=1

.PHONY: e2e-layer2
e2e-layer2: images ## Layer 2 in full, on the cluster that is up: options, selectors, shared addresses, a kubelet that hangs
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test layer2 -- --test-threads=1 --nocapture

.PHONY: e2e-operator
e2e-operator: images ## The operator with a faulty API server, and on the cluster that is up: pools, admission, gate, rights, removal
	METALLB_OPERATOR=$(CURDIR)/target/images/bin/operator cargo test -q -p metallb-e2e --test operator_faults -- --test-threads=1 --nocapture
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test operator -- --test-threads=1 --nocapture
	cargo test -q -p metallb-e2e --test removal -- --test-threads=1 --nocapture

.PHONY: e2e-bgp
e2e-bgp: images ## BGP and BFD with FRR, BIRD and GoBGP, on the cluster that is up; more in ARGS
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test bgp -- --test-threads=1 $(ARGS)

.PHONY: e2e-vrf
e2e-vrf: images ## BGP and BFD in VRFs, in a virtual machine with Debian's kernel; no cluster, a few minutes
	METALLB_SPEAKER=$(CURDIR)/target/images/bin/speaker cargo test -q -p metallb-e2e --test vrf -- --ignored --exact in_a_virtual_machine --nocapture

.PHONY: e2e-full
e2e-full: e2e-lifecycle e2e-oldest e2e e2e-definitions e2e-bgp e2e-vrf e2e-controller e2e-packages e2e-docs e2e-monitoring e2e-installers e2e-layer2 e2e-operator ## make e2e, and the end-to-end tests that take longer
	cargo test -q -p metallb-e2e --test cluster -- --test-threads=1 --nocapture --ignored
	@$(MAKE) -s bench-operator ARGS="--stops 200"

.PHONY: bench-layer2
bench-layer2: deploy ## Measure fail-over on layer 2 on the cluster that is up; more in ARGS, e.g. --runs 5 --cases rollout
	cargo build -q -p metallb-e2e --bin bench-layer2
	target/debug/bench-layer2 $(ARGS)

.PHONY: bench-l2
bench-l2: bench-layer2 bench-speaker ## Both benchmarks of layer 2

.PHONY: bench-speaker
bench-speaker: images ## Measure one speaker alone: floods of ARP, replies, memory, rest; more in SPEAKER_ARGS, e.g. --cases flood
	cargo build -q --release -p metallb-e2e --bin bench-speaker
	target/release/bench-speaker --speaker target/images/bin/speaker $(SPEAKER_ARGS)

# ---- packages: dist/install.yaml, the OLM bundle and catalog, the Helm chart

# The kubectl that the cluster uses, when it was built; any of 1.27 or later renders the same. Looked for when it is
# needed: `make test` builds it on the way.
KUBECTL ?= $(shell ls $(METALLB_CACHE)/kubernetes-*/kubectl 2>/dev/null | head -1 | grep . || echo kubectl)

.PHONY: dist
dist: ## Write dist/install.yaml, the whole installation in one file
	@mkdir -p dist
	@{ echo "# Written by \`make dist\` from config/default. Apply it with: kubectl apply --server-side -f install.yaml"; \
	  $(KUBECTL) kustomize config/default; } > dist/install.yaml

.PHONY: bundle
bundle: ## Write the OLM bundle (bundle/) and catalog (olm/) from config/
	@$(KUBECTL) kustomize config/manifests | cargo run -q -p metallb-api --bin bundlegen -- .

# What stands in for a home of the project, and for its registry, is kept in what is built to be tried, and refused in what
# is released.
PLACEHOLDERS ?= kept

# The digest of the image in the archive $(1).
DIGEST = tar -xOf "$(1)" index.json | grep -oE 'sha256:[0-9a-f]{64}' | head -1

.PHONY: bundle-release
bundle-release: images ## Write bundle, catalog and install.yaml with images by digest to target/published, and the bundle's image to target/images/bundle.tar
	@rm -rf target/published && mkdir -p target/published
	@images=; for program in $(PROGRAMS); do \
	    images+="s#$(IMAGE_PREFIX)/$$program:$(VERSION)#$(IMAGE_PREFIX)/$$program@$$($(call DIGEST,target/images/$$program.tar))#;"; done; \
	  sed -E "$$images" dist/install.yaml > target/published/install.yaml; \
	  labels=; for arch in $(ARCHS); do labels+="\\1operatorframework.io/arch.$$arch: supported\\n"; done; \
	  $(KUBECTL) kustomize config/manifests | sed -E "s#^( *)operatorframework.io/arch\..*#$${labels%??}#;$$images" \
	  | cargo run -q -p metallb-api --bin bundlegen -- . target/published $(if $(filter kept,$(PLACEHOLDERS)),--keep-placeholders)
	@chmod -R a+rX,go-w target/published
	$(call ARCHIVE,bundle,$(IMAGE_PREFIX)/bundle:$(VERSION),-f target/published/bundle/bundle.Containerfile target/published/bundle)
	@sed -i "s#$(IMAGE_PREFIX)/bundle:$(VERSION)#$(IMAGE_PREFIX)/bundle@$$($(call DIGEST,target/images/bundle.tar))#" \
	  target/published/olm/catalog/$(PACKAGE)/bundle-v$(VERSION).yaml

.PHONY: packaged
packaged: dist bundle chart ## Fail when dist/, bundle/, olm/ or the chart is not what config/ says
	@git diff --exit-code --stat -- dist bundle olm config/chart || \
	  { echo "commit what \`make dist bundle chart\` wrote" >&2; exit 1; }

.PHONY: chart
chart: ## Write the generated parts of the Helm chart in config/chart
	@$(KUBECTL) kustomize config/default | cargo run -q -p metallb-api --bin chartgen -- config/chart "$(PACKAGE)"

.PHONY: e2e-packages
e2e-packages: images ## Show that install.yaml, the bundle, the chart and the plugin are accepted, on the cluster that is up
	cargo test -q -p metallb-e2e --test archives
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test packages -- --test-threads=1
	cargo test -q -p metallb-e2e --test plugin -- --test-threads=1

.PHONY: e2e-installers
e2e-installers: images ## Install by install.yaml, by OLM's rules and by Helm, one after another, on the cluster that is up
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test installers -- --test-threads=1 --nocapture
	@$(E2E) deploy

.PHONY: e2e-docs
e2e-docs: images ## Run every command of README, CONTRIBUTING and docs/, and what MetalLB's guides tell to do, on the cluster that is up
	@$(E2E) deploy
	cargo test -q -p metallb-e2e --test docs -- --test-threads=1 --nocapture
	cargo test -q -p metallb-e2e --test seeds -- --test-threads=1 --nocapture

.PHONY: e2e-monitoring
e2e-monitoring: images ## Let a real Prometheus scrape the cluster that is up, and make each alert fire
	cargo test -q -p metallb-e2e --test monitoring -- --test-threads=1 --nocapture

# ---- releases

# The package's name stands in config/manifests.
PACKAGE := $(notdir $(basename $(basename $(wildcard config/manifests/bases/*.clusterserviceversion.yaml))))

.PHONY: release
release: tools ## Make the release VERSION=x.y.z: the version in every file, all that is generated, and target/artifacts
	@[ "$(origin VERSION)" = "command line" ] || { echo "say which: make release VERSION=x.y.z" >&2; exit 1; }
	@[ -z "$$(git status --porcelain --untracked-files=no)" ] || { echo "commit or discard what is changed first" >&2; exit 1; }
	@[ "$(PLACEHOLDERS)$(firstword $(origin PLACEHOLDERS))" = keptcommand ] || ! grep -HnE '^[A-Z_]+=(.*\.invalid([^-.a-z0-9]|$$)|localhost[:/])' \
	  config/manifests/project.env config/manager/images.env >&2 || \
	  { echo "say first where the project and its registry are, and commit that; PLACEHOLDERS=kept makes a release to be tried" >&2; exit 1; }
	@cargo run -q -p metallb-api --bin release -- prepare . "$(VERSION)" "$$(date -u +%F)"
	@cargo update -q --workspace --offline
	@$(MAKE) -s generate dist bundle chart
	@$(MAKE) -s artifacts $(if $(filter command,$(firstword $(origin PLACEHOLDERS))),,PLACEHOLDERS=refused)
	@$(MAKE) -s verify
	@mkdir -p olm/released && cp target/published/olm/catalog/$(PACKAGE)/bundle-v$(VERSION).yaml olm/released/
	@{ echo "# The definitions of $(VERSION). Later ones must take what these took, and keep it."; \
	  $(KUBECTL) kustomize config/crd; } > olm/released/crds-v$(VERSION).yaml
	@git add olm
	@echo "look at the changes, then: git commit -am 'Release $(VERSION)' && git tag v$(VERSION)"

# The other architecture, where this machine can build for it.
CROSS = $(if $(wildcard $(shell $(or $(RUSTC),rustc) --print target-libdir --target $(TARGET_$(OTHER_ARCH)))/*),$(if \
  $(shell command -v $(CC_$(OTHER_ARCH))),$(OTHER_ARCH)))

RELEASED = $(if $(filter command environment,$(firstword $(origin ARCHS))),$(ARCHS),$(sort $(HOST_ARCH) $(CROSS)))

# Paths of this machine would be in the messages of panics.
artifacts: export REMAP := --remap-path-prefix=$(CURDIR)=/src --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
artifacts: export LOCKED := --locked
# Apart from what is built day by day, which is built without these flags.
artifacts: export PROGRAMS_DIR := $(CURDIR)/target/reproducible
.PHONY: artifacts
artifacts: tools ## Write what is published of the version that is checked out to target/artifacts: the same bytes each time
	@rm -rf target/artifacts target/images/bin* $(ARCHIVES) && mkdir -p target/artifacts
	@[ -n "$(filter $(OTHER_ARCH),$(RELEASED))" ] || echo "there will be no images for $(OTHER_ARCH): that takes its standard" \
	  "library (rustup target add $(TARGET_$(OTHER_ARCH))) and the compiler $(CC_$(OTHER_ARCH))" >&2
	@$(MAKE) -s collect ARCHS="$(RELEASED)"

# The C library that is linked, as Debian calls its version.
LIBC = $(shell dpkg-query -W -f '$${Version}' libc6-dev 2>/dev/null || ldd --version | sed -n '1s/.* //p')

.PHONY: collect
collect: bundle-release
	@cp $(ARCHIVES) target/images/bundle.tar target/published/install.yaml target/artifacts/
	@$(foreach arch,$(ARCHS),cp $(call BIN,$(arch))/kubectl-metallb target/artifacts/kubectl-metallb-linux-$(arch);)
	@$(TAR) -C config/chart --transform='s,^\.,$(PACKAGE),' -cf - . | gzip -n > "target/artifacts/$(PACKAGE)-$(VERSION).tgz"
	@$(TAR) -C target/published/olm -cf - catalog catalog.Containerfile | gzip -n > "target/artifacts/$(PACKAGE)-catalog-$(VERSION).tgz"
	@cargo metadata -q --format-version 1 --locked --filter-platform $(TARGET_amd64) --filter-platform $(TARGET_arm64) \
	  | cargo run -q -p metallb-api --bin release -- bill . "$$($(or $(RUSTC),rustc) -V | cut -d' ' -f2)" "$(LIBC)" \
	    $(foreach image,$(PROGRAMS) bundle,"$(image)=$$($(call DIGEST,target/images/$(image).tar))") > target/artifacts/bill-of-materials.cdx.json
	@cd target/artifacts && LC_ALL=C && sha256sum * > ../SHA256SUMS && mv ../SHA256SUMS .
	@echo "target/artifacts holds:" && cat target/artifacts/SHA256SUMS

.PHONY: verify
verify: ## Check target/artifacts: checksums, images of their platforms, and a bundle, a catalog and an install.yaml that name them
	@cd target/artifacts && sha256sum --strict --quiet -c SHA256SUMS && \
	  diff <(cut -c67- SHA256SUMS) <(LC_ALL=C ls | grep -vx SHA256SUMS) || \
	  { echo "target/artifacts is not what its SHA256SUMS lists" >&2; exit 1; }
	@rm -rf target/verified && mkdir -p target/verified/image target/verified/bundle target/verified/olm
	@tar -xf target/artifacts/bundle.tar -C target/verified/image
	@for layer in target/verified/image/blobs/sha256/*; do \
	  if gzip -tq "$$layer" 2>/dev/null; then tar -xzf "$$layer" -C target/verified/bundle; fi; done
	@for file in metadata/annotations.yaml tests/scorecard/config.yaml; do \
	  test -f target/verified/bundle/$$file || { echo "the image of the bundle has no $$file" >&2; exit 1; }; done
	@tar -xzf target/artifacts/$(PACKAGE)-catalog-$(VERSION).tgz -C target/verified/olm
	@names() { image="$(IMAGE_PREFIX)/$$1@$$($(call DIGEST,target/artifacts/$$1.tar))"; \
	    grep -qrF "$$image" "target/verified/$$2" || { echo "$$2 does not name $$image" >&2; exit 1; }; }; \
	  for program in $(PROGRAMS); do names $$program bundle/manifests; names $$program olm/catalog; done; names bundle olm/catalog; \
	  mkdir -p target/verified/yaml && cp target/artifacts/install.yaml target/verified/yaml/; \
	  for program in $(PROGRAMS); do names $$program yaml; done
	@$(E2E) verify target/artifacts target/verified/bundle
	@echo "target/artifacts is whole"

# To cargo a clone's crates are those of this tree, so each clone has a target folder of its own.
# Folders of different depth, and other habits of the one who builds, must not show in what is built.
.PHONY: reproducible
reproducible: ## Build target/artifacts in two clones of the commit that is checked out, and compare them; about twenty minutes
	@rm -rf target/clones && mkdir -p target/clones
	@git clone -q . target/clones/one && git clone -q . target/clones/the/other
	@CARGO_TARGET_DIR=$(CURDIR)/target/clones/one/target $(MAKE) -s -C target/clones/one artifacts
	@umask 077; export TZ=Asia/Kathmandu LC_ALL=C.UTF-8 LANG=de_DE.UTF-8 CARGO_TARGET_DIR=$(CURDIR)/target/clones/the/other/target; \
	  $(MAKE) -s -C target/clones/the/other artifacts
	@diff target/clones/one/target/artifacts/SHA256SUMS target/clones/the/other/target/artifacts/SHA256SUMS
	@echo "both builds gave the same bytes"

# Later than any release: one for both channels, and one that is to be tried.
REHEARSED := 900.0.0 901.0.0-rc.1
.PHONY: rehearsal
rehearsal: ## Make two releases, one after the other, in a clone of the commit that is checked out; no cluster
	@rm -rf target/rehearsal && git clone -q . target/rehearsal
	@cd target/rehearsal && export CARGO_TARGET_DIR="$$PWD/target" && git config user.name rehearsal && git config user.email rehearsal@localhost; \
	  sed -i 's#^IMAGE_PREFIX=.*#IMAGE_PREFIX=registry.example:5000/metallb#' config/manager/images.env; \
	  sed -i 's#placeholder\.invalid#metallb.example#' config/manifests/project.env; \
	  for version in $(REHEARSED); do \
	    sed -i 's/^## Unreleased$$/&\n\n- A rehearsal./' CHANGELOG.md && git commit -qam "A change"; \
	    $(MAKE) -s release VERSION=$$version PROFILE=quick; \
	    git commit -qam "Release $$version" && git tag v$$version; \
	    $(MAKE) -s generated packaged; \
	    cargo test -q -p metallb-api; \
	  done
	@echo "both releases were made"

.PHONY: bench-controller
bench-controller: images ## Measure the controller on a real API server; more in ARGS, e.g. --controller "OTHER --flags"
	cargo build -q --release -p metallb-e2e --bin bench-controller
	target/release/bench-controller --controller target/images/bin/controller $(ARGS)

.PHONY: bench-operator
bench-operator: images ## Measure the operator on a real API server; ARGS="--stops 200" stops leaders past their Lease instead
	cargo build -q -p metallb-e2e --bin bench-operator
	target/debug/bench-operator --operator target/images/bin/operator $(ARGS)

# Above the corpora, which are committed; what is found goes to target/fuzz.
SECONDS_EACH := 60
.PHONY: fuzz
fuzz: ## Run each fuzz target of balancer/proto for SECONDS_EACH (60); needs a nightly Rust and a C++ compiler, no cluster
	@[ -x "$(METALLB_CACHE)/cargo/bin/cargo-fuzz" ] || { echo "building cargo-fuzz, once"; \
	  cargo install -q cargo-fuzz --version 0.13.2 --locked --root "$(METALLB_CACHE)/cargo"; }
	@cd balancer/proto && export PATH="$(METALLB_CACHE)/cargo/bin:$$PATH" && for target in $$(cd fuzz/fuzz_targets && ls | sed 's/\.rs$$//'); do \
	  mkdir -p "$(CURDIR)/target/fuzz/$$target"; \
	  cargo +nightly fuzz run --target-dir "$(CURDIR)/target/fuzz/build" $$target "$(CURDIR)/target/fuzz/$$target" fuzz/corpus/$$target \
	    -- -max_total_time=$(SECONDS_EACH) -print_final_stats=1 2>&1 | grep -E 'Done|number_of_executed|ERROR|panicked|crash|error' || exit 1; done

.PHONY: bench-membership
bench-membership: ## Measure what speakers tell each other: 1 to 1,000 of them, with and without loss; no cluster, some minutes
	cargo test -q --release -p metallb-proto --test membership_scale -- --ignored --nocapture

.PHONY: bench-bgp
bench-bgp: images ## Measure the speaker's BGP with BIRD; more in ARGS, e.g. --routes 10000 --families 4
	cargo build -q -p metallb-e2e --bin bench-bgp
	target/debug/bench-bgp --speaker target/images/bin/speaker $(ARGS)
