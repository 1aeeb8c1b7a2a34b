// The four pages: what each is made of, and where its figures come from.

import { h, setText } from "./dom.js";
import { cores, grc, lasts, mebibytes, seconds, when } from "./format.js";
import { Bars, Plot } from "./plot.js";
import { Failures, Table, Tiles } from "./tables.js";

const userPage = (name) => `/users/${encodeURIComponent(name)}`;
const functionPage = (name) => `/functions/${encodeURIComponent(name)}`;
const ofTask = (what, name, task) => `/api${functionPage(name)}/${what}?task=${encodeURIComponent(task)}`;
const byName = (a, b) => (a.name < b.name ? -1 : 1);

const standing = (user) => (user.accounting ? user.standing : "not billed");
const runway = (user) => (user.runway_ms === null ? "nothing is used up" : lasts(user.runway_ms));
const waiting = (now) => (now.waiting === null ? "?" : `${now.waiting}${now.has_more ? "+" : ""}`);
const queued = (now) => (now.work ? `${now.work.waiting}${now.functions.some((each) => each.has_more) ? "+" : ""}` : "?");
const running = (now) => now.work?.running ?? "?";
const inUse = (field) => (now) => (now.work ? cores(now.work[field]) : "?");

/** Why a function's tasks do not start; empty if they do. */
const obstacle = (now) => (now.may_start ? [now.problem, now.hint].filter(Boolean).join("; ") : now.refusal);
const starts = (now) => obstacle(now) || "starts tasks";
const startsMark = (now) => (obstacle(now) ? "failed" : "good");

const CPU = [
  { key: "used", label: "used", colour: "blue" },
  { key: "allocated", label: "allocated", colour: "orange" },
  { key: "max", label: "max", colour: "grey" },
];
const TASKS = [
  { key: "running", label: "running", colour: "blue" },
  { key: "waiting", label: "pending", colour: "orange" },
];
const asCores = (columns) => ({ ...columns, ...Object.fromEntries(["used", "allocated", "max", "held_back"].map((key) => [key, inCores(columns[key])])) });
const inCores = (value) => (Array.isArray(value) ? value.map(inCores) : value === null ? null : value / 1000);
const showCores = (value) => cores(Math.round(value * 1000));

/** A plot of work or of funds, fed with what the server keeps and tells. */
function workPlot(title, unit, series, show, whole) {
  const plot = new Plot({ title, unit, series, show, whole });
  return { plot, load: (history) => plot.load(asCores(history.work)), push: (now) => plot.push(now.at_ms, now.work && asCores(now.work)) };
}
const cpuPlot = () => workPlot("CPU", "cores", CPU, showCores);
const tasksPlot = () => workPlot("Tasks", "tasks", TASKS, String, true);
const heldBackPlot = () => workPlot("CPU held back by the limit", "cores", [{ key: "held_back", label: "held back", colour: "red" }], showCores);
function fundsPlot() {
  const series = [
    { key: "balance", label: "balance", colour: "blue" },
    { key: "limit", label: "debt limit", colour: "red" },
  ];
  const plot = new Plot({ title: "Funds", unit: "GRC", series, show: (value) => value.toFixed(8) });
  const minus = (amount) => (amount === null ? null : -Number(amount));
  return {
    plot,
    load: ({ funds }) => plot.load({ ...funds, limit: funds.debt_limit.map(minus) }),
    push: ({ at_ms, funds }) => plot.push(at_ms, funds && { balance: funds.balance, limit: minus(funds.debt_limit) }),
  };
}

const functionsTable = () => new Table({
  title: "Functions",
  key: (now) => now.name,
  empty: "No functions yet: `gridfaas function create` makes one.",
  columns: [
    { label: "Function", text: (now) => now.name, href: (now) => functionPage(now.name) },
    { label: "User", text: (now) => now.user, href: (now) => userPage(now.user) },
    { label: "Pending", text: waiting, number: true },
    { label: "Running", text: (now) => now.running, number: true },
    { label: "State", text: starts, mark: startsMark },
  ],
});
const listed = (shown, total) => (shown < total ? `The ${shown} busiest of ${total}.` : "");

function overview() {
  const tiles = new Tiles([
    { label: "Funds of all users", text: (now) => grc(now.balance_total) },
    { label: "Shortest runway", text: (now) => {
      const runways = now.users.map((user) => user.runway_ms).filter((ms) => ms !== null);
      return runways.length ? lasts(Math.min(...runways)) : "nothing is used up";
    } },
    { label: "Running", text: running },
    { label: "Queued", text: queued },
    { label: "CPU used", text: inUse("used") },
    { label: "CPU of the node", text: (now) => cores(now.node.capacity), href: () => "/node" },
  ]);
  const users = new Table({
    title: "Users",
    key: (user) => user.name,
    empty: "No users yet: `gridfaas user add` adds one.",
    columns: [
      { label: "User", text: (user) => user.name, href: (user) => userPage(user.name) },
      { label: "Balance (GRC)", text: (user) => user.balance, number: true },
      { label: "Standing", text: standing, mark: standing },
      { label: "Burn (GRC/h)", text: (user) => user.burn_per_hour, number: true },
      { label: "Runway", text: runway, number: true },
      { label: "Running", text: (user) => user.running_tasks, number: true },
    ],
  });
  const functions = functionsTable();
  return {
    title: "Overview",
    api: "/api/overview",
    plots: [cpuPlot(), tasksPlot()],
    tiles,
    parts: [users.element, functions.element],
    update(now) {
      users.update(now.users.sort(byName), listed(now.users.length, now.users_total));
      functions.update(now.functions.sort(byName), listed(now.functions.length, now.functions_total));
    },
  };
}

function user(name) {
  const of = (show) => (now) => (now.users[0] ? show(now.users[0]) : "?");
  const tiles = new Tiles([
    { label: "Balance", text: of((user) => grc(user.balance)) },
    { label: "Standing", text: of(standing), mark: of(standing) },
    { label: "Runway", text: of(runway) },
    { label: "Burn in an hour", text: of((user) => grc(user.burn_per_hour)) },
    { label: "Running", text: of((user) => user.running_tasks) },
    { label: "Queued", text: queued },
    { label: "Pending deposit", text: of((user) => grc(user.pending_deposit)) },
    { label: "Debt limit", text: of((user) => grc(user.debt_limit)) },
    { label: "One GRC buys", text: of((user) => seconds(user.cpu_time_us_per_grc)) },
    { label: "Deposit address", text: of((user) => user.deposit_address), wide: true, small: true },
  ]);
  const functions = functionsTable();
  const receipts = new Table({
    title: "Receipts",
    note: "The newest attempts on every node: what each used, and what it cost.",
    key: (session) => session.session_id,
    empty: "No attempts yet.",
    columns: [
      { label: "Task", text: (session) => session.task },
      { label: "Function", text: (session) => session.function, href: (session) => functionPage(session.function) },
      { label: "Attempt", text: (session) => session.attempt, number: true },
      { label: "Outcome", text: (session) => session.outcome, mark: outcomeMark },
      { label: "Opened", text: (session) => when(session.opened_at_ms), number: true },
      { label: "CPU", text: (session) => seconds(session.cpu_time_us), number: true },
      { label: "Cost (GRC)", text: (session) => session.amount, number: true },
      { label: "Receipt", text: (session) => (hasReceipt(session) ? "signed" : ""), href: (session) => hasReceipt(session) && ofTask("receipt", session.function, session.task) },
    ],
  });
  const statement = new Table({
    title: "Statement",
    key: (entry) => entry.id,
    empty: "Nothing is posted yet.",
    columns: [
      { label: "Posted", text: (entry) => when(entry.posted_at) },
      { label: "Kind", text: (entry) => entry.kind },
      { label: "Reference", text: (entry) => entry.reference },
      { label: "Amount (GRC)", text: (entry) => entry.amount, number: true },
      { label: "Balance (GRC)", text: (entry) => entry.balance, number: true },
    ],
  });
  return {
    title: name,
    kind: "User",
    api: `/api${userPage(name)}`,
    plots: [fundsPlot(), cpuPlot(), tasksPlot()],
    tiles,
    parts: [functions.element, receipts.element, statement.element],
    update(now) {
      functions.update(now.functions.sort(byName), listed(now.functions.length, now.functions_total));
    },
    records(records) {
      receipts.update(records.sessions);
      const { entries, closing, has_more } = records.statement;
      statement.update(entries, `Posted: ${grc(closing)}. ${has_more ? `The newest ${entries.length} entries; \`gridfaas statement ${name}\` has all.` : ""}`);
    },
  };
}

const hasReceipt = (session) => session.outcome === "succeeded" || session.outcome === "gave-up";
const outcomeMark = (session) => ({ live: "running", succeeded: "succeeded" })[session.outcome] ?? "failed";

function functionOf(name) {
  const of = (show) => (now) => (now.functions[0] ? show(now.functions[0]) : "?");
  const tiles = new Tiles([
    { label: "User", text: of((now) => now.user), href: of((now) => userPage(now.user)) },
    { label: "Running", text: running },
    { label: "Queued", text: of(waiting) },
    { label: "CPU used", text: inUse("used") },
    { label: "CPU allocated", text: inUse("allocated") },
    { label: "Spending limit", text: of((now) => (now.max_spend_per_hour === null ? "none" : `${now.max_spend_per_hour} GRC/h`)) },
    { label: "State", text: of(starts), mark: of(startsMark), wide: true },
  ]);
  const costs = new Bars({ title: "Cost of each task", unit: "GRC", describe: ({ length }) => (length ? `the newest ${length}, from old to new` : "no task has ended yet") });
  const tasks = new Table({
    title: "Tasks",
    note: "What this node ran, the newest first.",
    key: (task) => task.task_id,
    empty: "No tasks yet: `gridfaas submit` drops one.",
    columns: [
      { label: "Task", text: (task) => task.task },
      { label: "State", text: (task) => task.state, mark: (task) => task.state },
      { label: "Attempts", text: (task) => task.attempts.length, number: true },
      { label: "Started", text: (task) => started(task) ?? "–", number: true },
      { label: "CPU", text: (task) => seconds(task.cpu_time_us), number: true },
      { label: "Throttled", text: (task) => seconds(task.throttled_us), number: true },
      { label: "Cost (GRC)", text: (task) => task.amount, number: true },
    ],
  });
  const failures = new Failures({
    title: "Failures",
    empty: "None among these tasks.",
    key: (task) => task.task_id,
    summary: (task) => `${task.task}: ${task.attempts.findLast(isFailure).reason}, ${task.attempts.filter(isFailure).length} of ${task.attempts.length} attempts`,
    async load(task) {
      const { log, skipped } = await fetchJson(ofTask("log", name, task.task));
      return (skipped ? `… ${skipped} bytes before this\n` : "") + (log || "(it wrote nothing)");
    },
  });
  return {
    title: name,
    kind: "Function",
    api: `/api${functionPage(name)}`,
    plots: [cpuPlot(), tasksPlot(), heldBackPlot()],
    extra: [costs.element],
    tiles,
    parts: [failures.element, tasks.element],
    update() {},
    records(records) {
      tasks.update(records.tasks);
      failures.update(records.tasks.filter((task) => task.attempts.some(isFailure)));
      const over = records.tasks.filter((task) => task.state === "succeeded" || task.state === "failed").slice(0, 50).reverse();
      costs.set(over.map((task) => ({ value: Number(task.amount), bad: task.state === "failed", label: `${task.task}: ${grc(task.amount)}, ${task.state}` })));
    },
  };
}

const isFailure = (attempt) => attempt.reason !== "";
const started = (task) => {
  const first = task.attempts.find((attempt) => attempt.started_at_ms !== null);
  return first && when(first.started_at_ms);
};

function node() {
  const tiles = new Tiles([
    { label: "CPU capacity", text: (now) => cores(now.node.capacity) },
    { label: "Allocated", text: inUse("allocated") },
    { label: "Used", text: inUse("used") },
    { label: "Free", text: (now) => (now.work ? cores(Math.max(0, now.node.capacity - now.work.allocated)) : "?") },
    { label: "Memory set aside", text: (now) => `${mebibytes(now.node.memory_reserved_mib)} of ${mebibytes(now.node.memory_capacity_mib)}` },
    { label: "Containers", text: (now) => now.containers_total },
    { label: "Running tasks", text: running },
    { label: "Key of the receipts", text: (now) => now.node.receipt_key_id, wide: true, small: true },
  ]);
  const containers = new Table({
    title: "Containers",
    key: (now) => now.container_id,
    empty: "None: one starts when a task waits.",
    columns: [
      { label: "Container", text: (now) => now.container_id },
      { label: "Function", text: (now) => now.function, href: (now) => functionPage(now.function) },
      { label: "User", text: (now) => now.user, href: (now) => userPage(now.user) },
      { label: "Policy", text: (now) => now.policy },
      { label: "Used", text: (now) => cores(now.used), number: true },
      { label: "Allocated", text: (now) => cores(now.allocated), number: true },
      { label: "Max", text: (now) => cores(now.max), number: true },
      { label: "CPU", text: (now) => seconds(now.cpu_time_us), number: true },
      { label: "Throttled", text: (now) => seconds(now.throttled_us), number: true },
      { label: "Tasks", text: (now) => now.running_tasks, number: true },
      { label: "Restriction", text: (now) => now.restriction, mark: (now) => (now.restriction === "none" ? "good" : now.restriction) },
    ],
  });
  let heading;
  return {
    title: "Node",
    api: "/api/node",
    plots: [cpuPlot(), heldBackPlot(), tasksPlot()],
    tiles,
    parts: [containers.element],
    update(now) {
      heading ??= document.querySelector("h1");
      setText(heading, now.node.name ? `Node ${now.node.name}` : "Node");
      containers.update(now.containers, listed(now.containers.length, now.containers_total));
    },
  };
}

/** JSON from the server; what it says instead is thrown. */
export async function fetchJson(address) {
  const answer = await fetch(address);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

/** The page that an address names; null if there is none. */
export function pageOf(path) {
  const [, kind, name, rest] = path.split("/").map(decodeURIComponent);
  if (rest !== undefined) return null;
  if (path === "/") return overview();
  if (path === "/node") return node();
  if (kind === "users" && name) return user(name);
  if (kind === "functions" && name) return functionOf(name);
  return null;
}

/** The heading of a page. */
export const headingOf = ({ title, kind }) => h("h1", {}, kind ? h("small", {}, kind) : null, title);
