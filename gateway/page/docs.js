// The API's description for people, from /openapi.json. Whatever it says is set as text.

const $ = (id) => document.getElementById(id);

function element(tag, textContent = "", className = "") {
  return Object.assign(document.createElement(tag), { textContent, className });
}

function filled(tag, children, className = "") {
  const made = element(tag, "", className);
  made.append(...children);
  return made;
}

/** A sentence with `code` in it. */
function prose(tag, text, className = "") {
  const parts = text.split("`").map((part, index) => (index % 2 ? element("code", part) : part));
  return filled(tag, parts, className);
}

function link(href, ...children) {
  const made = filled("a", children);
  made.href = href;
  return made;
}

const nameOf = ({ $ref }) => $ref.split("/").at(-1);
const typeId = (name) => `type-${name}`;

/** The route's id, which is its address on this page. */
const routeId = (method, path) => `${method}${path.replaceAll(/[^\w]+/g, "-")}`;

// ---- what a value can be

const joined = (parts, between) => parts.flatMap((part, index) => (index ? [between, ...part] : part));

function range({ minimum, maximum }) {
  if (minimum !== undefined && maximum !== undefined) return ` from ${minimum} to ${maximum}`;
  return minimum === undefined ? "" : `, ${minimum} or more`;
}

/** Says in a few words, some of them links, what values a schema allows. */
function kind(schema) {
  if (schema.$ref) return [link(`#${typeId(nameOf(schema))}`, nameOf(schema))];
  if (schema.anyOf) return joined(schema.anyOf.map(kind), " or ");
  if (schema.enum) return [schema.enum.map(String).join(", ")];
  if (schema.type === "array") return ["list of ", ...kind(schema.items)];
  if (schema.additionalProperties) return ["for each class a ", ...kind(schema.additionalProperties)];
  if (schema.type === "object") return ["object with any fields"];
  if (schema.format === "binary") return ["file"];
  const plain = { integer: "whole number", boolean: "true or false", string: "text" };
  const encoded = schema.contentEncoding ? `, ${schema.contentEncoding}` : "";
  return [`${plain[schema.type] ?? schema.type ?? "anything"}${range(schema)}${encoded}`];
}

function row(name, about, description, extra = []) {
  const meaning = description ? [prose("span", description)] : [];
  return filled("div", [
    filled("dt", [element("code", name)]),
    filled("dd", [...meaning, filled("span", about, "type"), ...extra]),
  ]);
}

const fields = ({ properties }) => filled("dl",
  Object.entries(properties).map(([name, schema]) => row(name, kind(schema), schema.description)),
  "fields");

function parameter({ name, description, required, schema }) {
  const fallback = schema.default === undefined ? "" : `; ${schema.default} where left out`;
  return row(name, [...kind(schema), required ? "; required" : fallback], description);
}

// ---- one route

/** A command to try: the first option shows how options are given. */
function example(method, path, { requestBody, parameters = [], responses }) {
  const place = path.replace("{name}", parameters[0]?.schema.enum?.[0] ?? "");
  const words = ["curl"];
  if (requestBody) words.push("-F file=@cell.jpg");
  const option = parameters.find((one) => one.in === "query");
  const value = option?.schema.enum?.[1] ?? option?.schema.default;
  const query = option ? `?${option.name}=${value}` : "";
  const address = `${location.origin}${place}${query}`;
  words.push(query ? `'${address}'` : address);
  const media = Object.keys(responses[200].content);
  if (media.every((type) => type.startsWith("image/"))) words.push("-o overlay.png");
  return words.join(" ");
}

function command(text) {
  const copy = Object.assign(element("button", "Copy", "button plain copy"), { type: "button" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch { // no permission, or no secure origin: the text can be selected all the same
      getSelection().selectAllChildren(code);
    }
  });
  const code = element("code", text);
  const block = filled("pre", [code]);
  block.tabIndex = 0; // it scrolls sideways
  block.setAttribute("aria-label", "Example");
  return filled("div", [block, copy], "example");
}

/** What is sent or answered; media types of the same shape share a row. */
function bodies(content) {
  const shapes = new Map();
  for (const [media, { schema }] of Object.entries(content)) {
    const key = JSON.stringify(schema);
    shapes.set(key, { schema, media: [...(shapes.get(key)?.media ?? []), media] });
  }
  return filled("dl", [...shapes.values()].map(({ schema, media }) => {
    const [field] = schema.required ? Object.entries(schema.properties) : [];
    const about = field ? [`field ${field[0]}: `, ...kind(field[1])] : kind(schema);
    return row(media.join(", "), about, schema.description);
  }), "fields");
}

function problems(responses) {
  const items = Object.entries(responses).filter(([status]) => status >= 400).flatMap(([status, reply]) => {
    return reply.description.replace(/\.$/, "").split("; ").map((said) => {
      const [, title, name] = said.match(/^(.*) \(`(.*)`\)$/);
      return filled("li", [element("b", status), element("code", name), element("span", title)]);
    });
  });
  return filled("ul", items, "problems");
}

function card(method, path, operation) {
  const sent = operation.requestBody?.content;
  const failures = problems(operation.responses);
  const parts = [
    filled("h3", [element("span", method.toUpperCase(), `method ${method}`), element("span", path, "path")]),
    prose("p", `${operation.summary}.`),
    ...(operation.description ? [prose("p", operation.description, "quiet")] : []),
    command(example(method, path, operation)),
    ...(sent ? [element("h4", "Send"), bodies(sent)] : []),
    ...(operation.parameters.length
      ? [element("h4", "Options"), filled("dl", operation.parameters.map(parameter), "fields")] : []),
    element("h4", "Answer"), bodies(operation.responses[200].content),
    ...(failures.children.length ? [element("h4", "Problems"), failures] : []),
  ];
  return Object.assign(filled("article", parts, "card"), { id: routeId(method, path) });
}

// ---- the page

function group(title, cards) {
  const id = title.toLowerCase();
  const heading = Object.assign(element("h2", title), { id });
  const made = filled("section", [heading, ...cards], "group");
  made.setAttribute("aria-labelledby", id);
  return made;
}

function show({ info, paths, components }) {
  const routes = Object.entries(paths).flatMap(([path, methods]) => {
    return Object.entries(methods).map(([method, operation]) => ({ method, path, operation }));
  });
  const types = Object.entries(components.schemas);
  $("version").textContent = `version ${info.version}`;
  $("about").prepend(...info.description.split("\n\n").map((text, index) => prose("p", text, index ? "" : "lead")));
  for (const tag of new Set(routes.map(({ operation }) => operation.tags[0]))) {
    const own = routes.filter(({ operation }) => operation.tags[0] === tag);
    $("routes").append(group(tag, own.map(({ method, path, operation }) => card(method, path, operation))));
    $("contents").append(filled("div", [element("h2", tag), ...own.map(({ method, path }) => {
      const verb = element("span", method.toUpperCase(), `method ${method}`);
      return link(`#${routeId(method, path)}`, verb, element("span", path, "path"));
    })]));
  }
  $("routes").append(group("Types", types.map(([name, schema]) => {
    const parts = [element("h3", name), prose("p", schema.description, "quiet"), fields(schema)];
    return Object.assign(filled("article", parts, "card"), { id: typeId(name) });
  })));
  const names = types.map(([name]) => link(`#${typeId(name)}`, name));
  $("contents").append(filled("div", [element("h2", "Types"), ...names]));
  if (location.hash) $(location.hash.slice(1))?.scrollIntoView();
}

try {
  const response = await fetch("/openapi.json");
  show(await response.json());
} catch (error) {
  console.error(error);
  $("failed").hidden = false;
}
