const escape = text => String(text ?? "").replace(/[&<>"]/g, c => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}[c]));
const nameOf = schema => schema?.$ref ? schema.$ref.split("/").pop()
  : (schema?.anyOf ?? []).map(nameOf).filter(Boolean).join(" or ") || schema?.type || "";
function fields(name, all) {
  const shape = all[name];
  if (!shape?.properties) return "";
  const rows = Object.entries(shape.properties).map(([key, value]) =>
    `<tr><td><code>${escape(key)}</code></td><td>${escape(value.items ? nameOf(value.items) + " []" : nameOf(value))}</td>
     <td>${(shape.required ?? []).includes(key) ? "always" : ""}</td></tr>`);
  return `<details><summary><code>${escape(name)}</code></summary><div class="body"><table>${rows.join("")}</table></div></details>`;
}
function shapes(schema, all) {
  return (schema?.anyOf ?? [schema]).map(nameOf).filter(name => all[name]).map(name => fields(name, all)).join("");
}
function call(path, method, it, all) {
  const params = it.parameters.map(p => `<tr><td><code>${escape(p.name)}</code></td><td>${escape(p.in)}</td>
    <td>${escape(p.description)}${p.schema.enum ? " One of " + escape(p.schema.enum.join(", ")) + "." : ""}</td></tr>`);
  const body = it.requestBody?.content["application/json"]?.schema;
  const replies = Object.entries(it.responses).filter(([code]) => code < 300).map(([code, reply]) =>
    `<p>Replies <code>${escape(code)}</code> ${escape(reply.description)}</p>${shapes(reply.content?.["application/json"]?.schema, all)}`);
  const errors = Object.keys(it.responses).filter(code => code >= 400).map(code => `<code>${escape(code)}</code>`);
  return `<details id="${escape(it.operationId)}"><summary><span class="method">${method.toUpperCase()}</span>
    <span class="path">${escape(path)}</span><span class="about">${escape(it.summary)}</span></summary>
    <div class="body"><p>${escape(it.description)}</p>${params.length ? `<table>${params.join("")}</table>` : ""}
    ${body ? `<p>Body</p>${shapes(body, all)}` : ""}${replies.join("")}<p>May also answer ${errors.join(" ")}</p></div></details>`;
}
fetch("/openapi.json").then(reply => reply.json()).then(doc => {
  const groups = {};
  for (const [path, methods] of Object.entries(doc.paths))
    for (const [method, it] of Object.entries(methods))
      (groups[it.tags[0]] ??= []).push(call(path, method, it, doc.components.schemas));
  document.getElementById("calls").innerHTML =
    Object.entries(groups).map(([tag, calls]) => `<h2>${escape(tag)}</h2>${calls.join("")}`).join("");
}).catch(error => { document.getElementById("calls").textContent = "The document could not be read: " + error; });
