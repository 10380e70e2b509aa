#!/usr/bin/env bash
# Two hosts on a narrow network: two network namespaces with host names of their own, a pair of virtual interfaces, 50 Mbit/s
# each way. Data parallel and as a pipeline, a run has the bits of one process, and what it sends has gone that way.
# RUN timeout=120
. tests/tiny_run.sh
skip() {
  echo "skipped: $*"
  exit 77
}

((EUID == 0)) || skip "network namespaces need root"
for tool in ip tc unshare; do command -v $tool >/dev/null || skip "$tool is missing"; done
left=qst-$$-a right=qst-$$-b
ip netns add $left 2>"$work/stderr" || skip "no network namespaces here: $(cat "$work/stderr")"
trap 'ip netns del $left; ip netns del $right; rm -rf "$work"' EXIT
ip netns add $right

# address NAMESPACE INTERFACE ADDRESS
address() {
  ip -n "$1" addr add "$3/24" dev "$2" && ip -n "$1" link set lo up && ip -n "$1" link set "$2" up &&
    tc -n "$1" qdisc add dev "$2" root tbf rate 50mbit burst 64kb latency 100ms
}

{
  ip link add qst-a netns $left type veth peer name qst-b netns $right &&
    address $left qst-a 10.77.0.1 && address $right qst-b 10.77.0.2
} 2>"$work/stderr" || skip "no narrow network here: $(cat "$work/stderr")"

# host NAMESPACE COMMAND...: on the host of that name
host() {
  local name=$1
  shift
  # shellcheck disable=SC2016 # for the inner shell
  unshare --uts ip netns exec "$name" sh -c 'hostname "$0" && exec "$@"' "$name" "$@"
}

# What mpirun takes for ssh: the address of the host, then a command line.
cat >"$work/enter" <<END
#!/usr/bin/env bash
shift
exec unshare --uts ip netns exec $right sh -c "hostname $right && \$*"
END
chmod +x "$work/enter"

# on_both COMMAND...: a rank on each host
on_both() {
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 host $left \
    mpirun --host 10.77.0.1,10.77.0.2 -n 2 --bind-to none --mca plm_rsh_agent "$work/enter" --mca btl tcp,self \
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 "$@"
}

sent() { # NAMESPACE INTERFACE: bytes
  ip -n "$1" -s -j link show dev "$2" | sed -n 's/.*"tx":{"bytes":\([0-9]*\).*/\1/p'
}

make_tiny
steps=30
read -ra options <<<"$(tiny_options) --steps $steps --save-every 10 --threads 1"
"$QST" "${options[@]}" --out "$work/one"
on_both "$QST" "${options[@]}" --out "$work/replicas"
same_run "$work/one" "$work/replicas" $steps
bytes=$(sent $right qst-b)
((bytes > steps * 10000 * 8)) || die "the gradients of $steps steps went another way: $bytes bytes"
on_both "$QST" "${options[@]}" --out "$work/stages" --pipeline-stages 2
same_run "$work/one" "$work/stages" $steps
(($(sent $right qst-b) > bytes)) || die "the pipeline sent nothing"
