-- Health of a FinetuneJob. Its conditions decide; a status about an older generation says nothing yet.
local health = { status = "Progressing", message = "Waiting for the operator" }

local status = obj.status
if status == nil or status.conditions == nil then
  return health
end
if (status.observedGeneration or 0) < (obj.metadata.generation or 0) then
  health.message = "Waiting for the operator to see the latest change"
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local succeeded = conditions.Succeeded
health.message = status.message or (succeeded and succeeded.message) or ""
if conditions.Suspended ~= nil and conditions.Suspended.status == "True" then
  health.status = "Suspended"
elseif succeeded ~= nil and succeeded.status == "True" then
  health.status = "Healthy"
elseif succeeded ~= nil and succeeded.status == "False" then
  health.status = "Degraded"
elseif status.stage ~= nil and status.progress ~= nil then
  health.message = status.stage .. ": " .. status.progress
end
return health
