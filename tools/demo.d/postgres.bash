# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# PostgreSQL as an ordinary user, on a socket of its own, and pgbench.
# shellcheck disable=SC2012,SC2034,SC2154

pg_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
pg_user=postgres
id -u $pg_user >/dev/null 2>&1 || pg_user=nobody
pg_sock=$CBW_TMP/socket
pg_scale=${CBW_DEMO_SCALE:-3}

# In a shell of its own.
pg_exec()
{
	cd / || exit
	export HOME=/ PGHOST=$pg_sock PGUSER=postgres PGDATABASE=bench LC_ALL=C
	exec setpriv --reuid "$pg_user" --regid "$(id -g "$pg_user")" \
		--clear-groups "$pg_bin/$1" "${@:2}"
}

as_pg()
{
	(pg_exec "$@")
}

# pg_init DIR
pg_init()
{
	[[ -n $pg_bin ]] || { echo "there is no PostgreSQL in /usr/lib/postgresql"; return 1; }
	mkdir -p "$pg_sock" "$1" && chown "$pg_user" "$pg_sock" "$1" &&
		chmod 700 "$1" && chmod 755 "$CBW_TMP" || return
	as_pg initdb -D "$1" --data-checksums --auth trust -U postgres \
		--no-locale --encoding UTF8 --wal-segsize 4 --no-sync || return
	cat >>"$1/postgresql.conf" <<-END
		listen_addresses = ''
		unix_socket_directories = '$pg_sock'
		shared_buffers = 24MB
		checkpoint_timeout = 40s
		min_wal_size = 16MB
		max_wal_size = 48MB
		max_connections = 20
	END
}

# pg_start DIR LOG
pg_start()
{
	: >"$2" && chown "$pg_user" "$2" &&
		as_pg pg_ctl start -w -t 120 -s -D "$1" -l "$2" || { cat "$2"; return 1; }
}

pg_stop()
{
	as_pg pg_ctl stop -m fast -w -t 60 -s -D "$1"
}

pg_fill()
{
	as_pg createdb bench && as_pg pgbench -i -q -s "$pg_scale" bench
}

# Two clients; a transaction that is late by a second is left out, since the rest of
# the machine has work, too.
pg_load_start()
{
	pg_exec pgbench -n -c 2 -R "${CBW_DEMO_RATE:-20}" -L 1000 -P 2 -T 3000 bench >"$CBW_TMP/pgbench.log" 2>&1 &
	pgbench_pid=$!
	until_true 30 grep -q ^progress "$CBW_TMP/pgbench.log"
}

pg_load_alive()
{
	kill -0 "$pgbench_pid"
}

# No transaction failed, no client gave up.
pg_load_sane()
{
	tail -n 3 "$CBW_TMP/pgbench.log"
	pg_load_alive || { cat "$CBW_TMP/pgbench.log"; return 1; }
	! grep -v -e '^progress: .* 0 failed' -e '^pgbench (' "$CBW_TMP/pgbench.log"
}

pg_load_stop()
{
	kill -TERM "$pgbench_pid" 2>/dev/null
	wait "$pgbench_pid" 2>/dev/null
	pgbench_pid=''
}

# pg_rate FIRST-LINE: transactions per second that pgbench reports from there on
pg_rate()
{
	sed -n "s/^progress: .* s, \([0-9.]*\) tps.*/\1/p" "$CBW_TMP/pgbench.log" |
		tail -n "+$1" | awk '{ s += $1 } END { printf "%.0f", NR ? s / NR : 0 }'
}

pg_lines()
{
	grep -c ^progress "$CBW_TMP/pgbench.log"
}

# How many transactions are committed.
pg_count()
{
	as_pg psql -qAtX -c 'select count(*) from pgbench_history'
}

# Money is neither made nor lost: the four sums of pgbench are equal, and no branch,
# teller or account has another balance than its history says. Prints the number of
# transactions.
pg_consistent()
{
	local got

	got=$(as_pg psql -qAtX -F ' ' -v ON_ERROR_STOP=1 -c "
		select (select count(*) from pgbench_history),
		       (select sum(abalance) from pgbench_accounts),
		       (select sum(tbalance) from pgbench_tellers),
		       (select sum(bbalance) from pgbench_branches),
		       (select coalesce(sum(delta), 0) from pgbench_history),
		       (select count(*) from pgbench_accounts),
		       (select count(*) from pgbench_accounts a left join
				(select aid, sum(delta) s from pgbench_history group by aid) h
				using (aid) where abalance <> coalesce(s, 0)),
		       (select count(*) from pgbench_tellers t left join
				(select tid, sum(delta) s from pgbench_history group by tid) h
				using (tid) where tbalance <> coalesce(s, 0))") || return
	local f
	read -r -a f <<<"$got"
	echo "transactions, sums of accounts, tellers, branches, history; accounts; wrong accounts, tellers: $got"
	[[ ${#f[@]} == 8 && ${f[0]} -gt 0 && ${f[1]} == "${f[4]}" && ${f[2]} == "${f[4]}" &&
	   ${f[3]} == "${f[4]}" && ${f[5]} == $((100000 * pg_scale)) && ${f[6]} == 0 && ${f[7]} == 0 ]] || return
	pg_transactions=${f[0]}
}
