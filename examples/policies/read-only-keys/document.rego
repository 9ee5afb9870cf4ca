package app.document

deny contains reason if some reason in data.keys.refused
