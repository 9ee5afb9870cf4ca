package app.comment

deny contains reason if some reason in data.keys.refused
